"""How a setting of a grid is chosen: without the truth, and by it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import entr


def activity_nats(shares_K: np.ndarray) -> float:
    """Return the code length of which units are active on a sample, in nats: ``sum_j H(p_j)``.

    Each unit has a code of its own: H is the entropy of a coin that shows heads with probability
    ``p_j``. A unit that is never or always active costs nothing.

    Args:
        shares_K: share ``p_j`` of the samples on which each unit is active.
    """
    shares_K = np.asarray(shares_K, np.float64)
    return float((entr(shares_K) + entr(1 - shares_K)).sum())


def blind_score(width: ArrayLike, fvu: ArrayLike, activity: ArrayLike) -> np.ndarray:
    """Return a description length per sample in nats, up to a constant: lower is better.

    It is ``D / 2 log(FVU) + sum_j H(p_j)``. The first term is what Gaussian residuals cost in D
    dimensions, the second what it costs to say which units are active. The strengths of active
    units count as free.

    Args:
        width: number of dimensions D.
        fvu: fraction of the variance that a ridge decoder leaves unexplained.
        activity: ``activity_nats`` of the units.
    """
    width, fvu, activity = (np.asarray(value, np.float64) for value in (width, fvu, activity))
    with np.errstate(divide="ignore"):  # without a residual, the score is minus infinity
        return 0.5 * width * np.log(fvu) + activity


def choose(tuning: pd.DataFrame, criteria: Mapping[Any, str]) -> pd.DataFrame:
    """Return the best setting of each family by each criterion, a row for each.

    Args:
        tuning: one row per setting, with ``family``, ``settings``, ``run``, and the criteria's
            columns, null if the setting diverged.
        criteria: column of each criterion; with a minus in front, less is better.
    """
    rows = []
    for name, criterion in criteria.items():
        column = criterion.removeprefix("-")
        known = tuning.dropna(subset=column)
        values = -known[column] if criterion.startswith("-") else known[column]
        best = values.groupby(known["family"], sort=False).idxmax()
        rows.append(known.loc[best].assign(criterion=name))
    return pd.concat(rows, ignore_index=True)
