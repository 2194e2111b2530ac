"""Weight rows as a dictionary: their similarity to each other, and to the rows of other runs.

A matrix has one row for each unit: the rows of an encoder, or the columns of a decoder.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

SINGLE = 0.9
"""A unit is of a single site if its norm there has a larger share of the sum of its norms."""


def varying(x_ND: np.ndarray) -> np.ndarray:
    """Return which features take more than one value, bool, shape ``(D,)``.

    In an encoder, the weights of the other features stay as they were initialised, which makes the
    rows of two seeds look different. So compare encoders on ``weight_KD[:, varying(train_x_ND)]``.
    """
    return (x_ND != x_ND[0]).any(0)


def coherence(rows_KD: np.ndarray) -> tuple[float, float]:
    """Return mean and maximum over the rows of the largest |cosine| with another row.

    The maximum is the mutual coherence (Donoho & Huo 2001). Rows of zeros have no direction and do
    not count. NaN if fewer than two rows are left.
    """
    nonzero_KD = rows_KD[rows_KD.any(1)]
    if len(nonzero_KD) < 2:
        return float("nan"), float("nan")
    cosines_KK = cosines(nonzero_KD, nonzero_KD, signed=False)
    np.fill_diagonal(cosines_KK, 0)
    nearest_K = cosines_KK.max(1)
    return float(nearest_K.mean()), float(nearest_K.max())


def matched_cosine(first_KD: np.ndarray, second_LD: np.ndarray) -> float:
    """Return the largest mean |cosine| of the rows of two matrices over all matchings.

    The Hungarian method pairs every row of the smaller matrix with a different row. Rows of zeros
    have cosine 0 with all others.
    """
    cosines_KL = cosines(first_KD, second_LD, signed=False)
    return float(cosines_KL[linear_sum_assignment(cosines_KL, maximize=True)].mean())


def stability(runs: Sequence[np.ndarray]) -> float:
    """Return the mean of ``matched_cosine`` over all pairs of runs; NaN for a single run.

    It is the PW-MCC of Song et al. 2025 (arXiv 2505.20254), of absolute cosines: 1 if all seeds
    find the same rows, up to order, scale and sign. Dead units count as their rows are.
    """
    matches = [matched_cosine(first, second) for first, second in combinations(runs, 2)]
    return float(np.mean(matches)) if matches else float("nan")


def cosines(first_KD: np.ndarray, second_LD: np.ndarray, signed: bool = True) -> np.ndarray:
    """Return the cosines between rows, or their absolute values, float64, shape ``(K, L)``.

    Rows of zeros have cosine 0 with all others.
    """
    cosines_KL = (_unit_rows(first_KD) @ _unit_rows(second_LD).T).clip(-1, 1)
    return cosines_KL if signed else np.abs(cosines_KL)


def norms_at_sites(rows_KD: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
    """Return the lengths of a decoder's rows at each of S sites, float64, shape ``(K, S)``.

    Compare them where each site has the same mean square, as in normalised samples (Lindsey et al.
    2024, Sparse crosscoders for cross-layer features and model diffing).
    """
    parts_KD = (rows_KD[:, columns].astype(np.float64) for columns in parts)
    return np.stack([np.linalg.norm(part_KD, axis=1) for part_KD in parts_KD], axis=1)


def single_site(norms_KS: np.ndarray) -> np.ndarray:
    """Return which units are of a single site, bool, shape ``(K,)``; see ``SINGLE``."""
    return norms_KS.max(1) > SINGLE * norms_KS.sum(1)


def _unit_rows(rows_KD: np.ndarray) -> np.ndarray:
    """Return the rows scaled to length 1, float64; rows of zeros stay."""
    rows_KD = rows_KD.astype(np.float64)
    # By the largest weight first: then no square under- or overflows.
    for order in (np.inf, 2):
        sizes_K1 = np.linalg.norm(rows_KD, order, axis=1, keepdims=True)
        rows_KD = rows_KD / np.where(sizes_K1 > 0, sizes_K1, 1)
    return rows_KD
