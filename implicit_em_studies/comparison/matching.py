"""Families at the same density: settings near it, values between settings, and the front."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

SHOWN = ["family", "target", "settings", "run", "density", "probe_accuracy"]


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
    rows = [
        (family, target, seed, at_density(curve[along], curve[value], target, beyond))
        for target in sorted(targets)
        for (family, seed), curve in finals.groupby(["family", "seed"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["family", "target", "seed", "value"])


def select(
    tuning: pd.DataFrame, densities: Sequence[float], reach: float, beyond: float
) -> pd.DataFrame:
    """Return each family's setting with the best validation probe near each density.

    Candidates for a density lie within the factor ``reach`` of it. For the lowest density they lie
    at most the factor ``beyond`` above it, and for the highest below it: a curve through the chosen
    settings then spans all densities.

    Args:
        tuning: one row per setting, with the columns ``SHOWN`` except ``target``; ``density`` and
            ``probe_accuracy`` are null if the setting diverged.
    """
    rows = []
    for target in densities:
        low = target / (beyond if target == max(densities) else reach)
        high = target * (beyond if target == min(densities) else reach)
        near = tuning[tuning["density"].between(low, high) & tuning["probe_accuracy"].notna()]
        best = near.groupby("family", sort=False)["probe_accuracy"].idxmax()
        rows.append(near.loc[best].assign(target=target))
    return pd.concat(rows)[SHOWN].reset_index(drop=True)


def on_front(points: pd.DataFrame, density: str, value: str) -> pd.Series:
    """Return which rows are on the front: no other is as sparse and better, or sparser and as good.

    A row with a null density or value is not on the front.
    """
    known = points[[density, value]].dropna()
    best = known.groupby(density)[value].max()
    best_before = best.cummax().shift(fill_value=-np.inf)
    front = known[known[value] == known[density].map(best.where(best > best_before))]
    return pd.Series(points.index.isin(front.index), index=points.index)


def fronts(points: pd.DataFrame, densities: Sequence[float], reach: float) -> pd.DataFrame:
    """Return the families that have a setting on the front near each density, sparsest first.

    A setting belongs to the nearest density, if that lies within the factor ``reach``.
    """
    front = points[on_front(points, "density", "probe_accuracy")].sort_values("density")
    front = front[front["density"] > 0]
    distances = np.abs(np.log(front["density"].to_numpy()[:, None]) - np.log(densities))
    nearest = np.asarray(densities)[distances.argmin(1)]
    rows = []
    for target in densities:
        near = front[(nearest == target) & front["density"].between(target / reach, target * reach)]
        rows.append({"target": target, "families": tuple(near["family"].unique())})
    return pd.DataFrame(rows)
