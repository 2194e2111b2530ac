"""Probes at the same density, between runs whose densities differ."""

import numpy as np
import pandas as pd


def probe_at(density: float, curve: pd.DataFrame) -> float:
    """Return the probe at a density, interpolated linearly; NaN beyond the curve's ends.

    Args:
        density: share of active units.
        curve: runs that differ in their density, with ``density`` and ``probe_accuracy``.
    """
    curve = curve.sort_values("density")
    ends = {"left": np.nan, "right": np.nan}
    return float(np.interp(density, curve["density"], curve["probe_accuracy"], **ends))
