"""Which settings of a grid are chosen, and which nothing beats."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

SHOWN = ["family", "target", "settings", "run", "density", "probe_accuracy"]


def select(
    tuning: pd.DataFrame, densities: Sequence[float], reach: float, beyond: float
) -> pd.DataFrame:
    """Return the setting of best validation probe of each family near each density.

    Candidates for a density lie within the factor ``reach`` of it. For the lowest density they lie
    at most the factor ``beyond`` above it, and for the highest below it, so that a curve through
    what was chosen spans all densities.

    Args:
        tuning: a row a setting: ``family``, ``settings``, ``run``, ``density`` and
            ``probe_accuracy``, the last two measured on validation samples; null for a setting that
            diverged.
        densities: to be matched.
        reach: factor.
        beyond: factor.

    Returns:
        A row a family and density that it reaches: those columns, and ``target``.

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
    """Return which rows no other row beats: none is as sparse and better, or sparser and as good.

    A row whose density or value is null is not on it.
    """
    there = points[[density, value]].dropna()
    best = there.groupby(density)[value].max()
    best_before = best.cummax().shift(fill_value=-np.inf)
    there = there[there[value] == there[density].map(best.where(best > best_before))]
    return pd.Series(points.index.isin(there.index), index=points.index)


def fronts(points: pd.DataFrame, densities: Sequence[float], reach: float) -> pd.DataFrame:
    """Return which families have a setting on the front near each density.

    Args:
        points: ``family``, ``density``, ``probe_accuracy``.
        densities: as in the protocol.
        reach: factor within which a setting belongs to a density, the nearest.

    Returns:
        A row a density: ``target``, and ``families``, a tuple in the order of density.

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
