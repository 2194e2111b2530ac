"""Families at the same density: values between settings."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def at_density(densities: ArrayLike, values: ArrayLike, target: float, beyond: float) -> float:
    """Return the value at a density, linear in its logarithm between the nearest settings.

    Past the ends of the curve, by at most the factor ``beyond``, the value at the end holds;
    further out it is NaN. Settings of density 0 or without a value are left out.
    """
    x, y = (np.asarray(numbers, dtype=np.float64) for numbers in (densities, values))
    valid = (x > 0) & np.isfinite(y)
    x, y = x[valid], y[valid]
    if not len(x) or not x.min() / beyond <= target <= x.max() * beyond:
        return float("nan")
    x, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    y = np.bincount(places, y) / counts  # the mean of equal densities
    return float(np.interp(np.log(target), np.log(x), y))


def matched(
    finals: pd.DataFrame,
    targets: Sequence[float],
    beyond: float,
    along: str = "exact_density",
    value: str = "probe_accuracy",
) -> pd.DataFrame:
    """Return the value of each family and seed at each target; null if it is out of reach.

    The column ``along`` is matched, the column ``value`` is compared. ``beyond`` is the factor of
    ``at_density``.
    """
    return pd.DataFrame(
        [
            {
                "family": family,
                "target": target,
                "seed": seed,
                "value": at_density(curve[along], curve[value], target, beyond),
            }
            for target in sorted(targets)
            for (family, seed), curve in finals.groupby(["family", "seed"], sort=False)
        ],
        columns=["family", "target", "seed", "value"],
    )
