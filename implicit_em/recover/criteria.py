"""How a setting of a grid is chosen: without the truth, and by it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def blind_score(width: ArrayLike, fvu: ArrayLike, l0: ArrayLike, units: ArrayLike) -> np.ndarray:
    """Return a description length per sample in nats, up to a constant: lower is better.

    It is ``D / 2 log(FVU) + L0 log(K)``. The first term is what Gaussian residuals cost in D
    dimensions, the second what it costs to name the active units.

    Args:
        width: number of dimensions D.
        fvu: fraction of the variance that a ridge decoder leaves unexplained.
        l0: mean number of active units of a sample.
        units: number of units K.
    """
    width, fvu, l0, units = (np.asarray(value, np.float64) for value in (width, fvu, l0, units))
    with np.errstate(divide="ignore"):  # without a residual, the score is minus infinity
        return 0.5 * width * np.log(fvu) + l0 * np.log(units)


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
