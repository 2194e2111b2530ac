"""The criterion that chooses a setting without the truth."""

import numpy as np
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


DISTORTION = 0.05
"""Share of the variance below which a residual need not be described.

It was fixed after a pilot on two cells. Without it, the shortest descriptions of samples without
noise are dense codes that leave no residual."""


def blind_score(width: ArrayLike, fvu: ArrayLike, l0: ArrayLike, activity: ArrayLike) -> np.ndarray:
    """Return a description length per sample in nats, up to a constant: lower is better.

    Samples are described up to a distortion d, which is ``DISTORTION``. The score is ``D / 2
    log(max(FVU, d)) + L0 / 2 log(1 / d) + sum_j H(p_j)``. The first term is what the residuals in D
    dimensions cost, the second what the strengths of the active units cost: both are rates of
    Gaussian sources (Cover & Thomas 2006, section 10.3). The third says which units are active.

    Args:
        width: number of dimensions D.
        fvu: fraction of the variance that a ridge decoder leaves unexplained.
        l0: mean number of active units of a sample.
        activity: ``activity_nats`` of the units.
    """
    width, fvu, l0, activity = (np.asarray(v, np.float64) for v in (width, fvu, l0, activity))
    residual = 0.5 * width * np.log(np.maximum(fvu, DISTORTION))
    return residual - 0.5 * l0 * np.log(DISTORTION) + activity
