"""How many of a dictionary's directions describe a sample: a criterion that needs no truth.

True features describe samples with the fewest directions. The codes of a model play no part, so
models with different numbers of active units can be compared.
"""

import warnings

import numpy as np
from sklearn.linear_model import orthogonal_mp_gram

DISTORTION = 0.05
"""Share of the variance that a description of the samples may leave."""
PURSUED = 500
"""Number of samples that are described."""


def pursuit_l0(directions_KD: np.ndarray, x_ND: np.ndarray) -> float:
    """Return how many of a dictionary's directions describe a sample, on average.

    Orthogonal matching pursuit takes the direction that is most like what is left of a sample, fits
    all that it has taken, and goes on (Pati, Rezaiifar & Krishnaprasad 1993). It ends when the
    squared residual is at most ``DISTORTION`` times the variance: the mean squared distance of the
    samples from their mean. A sample that stays above it counts as D directions, the number that
    any basis needs at most.

    Args:
        directions_KD: a dictionary's directions, of any length; a length of 0 is left out.
        x_ND: samples; the first ``PURSUED`` are described.

    Returns:
        The mean number, from 0 to D; NaN if a direction is not finite.
    """
    directions_KD = np.asarray(directions_KD, np.float64)
    x_ND = np.asarray(x_ND[:PURSUED], np.float64)
    if not np.isfinite(directions_KD).all():
        return float("nan")
    x_ND = x_ND - x_ND.mean(0)
    squares_N = (x_ND**2).sum(1)
    most = DISTORTION * squares_N.mean()
    far_ND, far_N = x_ND[squares_N > most], squares_N[squares_N > most]
    lengths_K = np.linalg.norm(directions_KD, axis=1)
    unit_KD = directions_KD[lengths_K > 0] / lengths_K[lengths_K > 0, None]
    code_KN = np.zeros((len(unit_KD), len(far_ND)))
    if code_KN.size:
        inner_KN, gram_KK = unit_KD @ far_ND.T, unit_KD @ unit_KD.T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # no direction is left: counted below
            code = orthogonal_mp_gram(gram_KK, inner_KN, tol=most, norms_squared=far_N)
        code_KN = code.reshape(code_KN.shape)
    left_N = ((far_ND - code_KN.T @ unit_KD) ** 2).sum(1)
    needed_N = np.where(left_N <= most * (1 + 1e-6), (code_KN != 0).sum(0), x_ND.shape[1])
    return float(needed_N.sum() / len(x_ND))
