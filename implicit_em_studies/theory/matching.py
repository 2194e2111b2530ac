"""What several experiments compare: probes at the same density, and how pure units are."""

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


def purity(joint_CK: np.ndarray) -> float:
    """Return the share of samples whose label is the commonest one of their unit.

    Args:
        joint_CK: share of the samples with each label and unit; their numbers give a number.
    """
    return float(joint_CK.max(0).sum())
