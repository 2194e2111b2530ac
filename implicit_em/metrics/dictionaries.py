"""Weight rows as a dictionary: how alike they are to each other, and to another run's.

A matrix has one row a unit: an encoder's rows, or a decoder's columns, transposed.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment


class Coherence(NamedTuple):
    """How alike rows are: each one's largest |cosine| with another."""

    mean: float
    """Over the rows."""
    maximum: float
    """The mutual coherence of the dictionary (Donoho & Huo 2001)."""


def varying(x_ND: np.ndarray) -> np.ndarray:
    """Return which features take more than one value, bool, shape ``(D,)``.

    The weights of the others are those of the initialisation for ever, in an encoder: they would
    tell the rows of two seeds apart however alike these are. So compare encoders' rows on
    ``weight_KD[:, varying(train_x_ND)]``.
    """
    return (x_ND != x_ND[0]).any(0)


def coherence(rows_KD: np.ndarray) -> Coherence:
    """Return mean and maximum over the rows of the largest |cosine| with another row.

    Rows of zeros have no direction and are left out; NaN where fewer than two are left.
    """
    nonzero_KD = rows_KD[rows_KD.any(1)]
    if len(nonzero_KD) < 2:
        return Coherence(float("nan"), float("nan"))
    cosines_KK = _cosines(nonzero_KD, nonzero_KD)
    np.fill_diagonal(cosines_KK, 0)
    nearest_K = cosines_KK.max(1)
    return Coherence(float(nearest_K.mean()), float(nearest_K.max()))


def matched_cosine(first_KD: np.ndarray, second_LD: np.ndarray) -> float:
    """Return the mean |cosine| of the rows of two matrices, matched to make it largest.

    The Hungarian method pairs every row of the smaller matrix with a row of its own. Rows of zeros
    have cosine 0 with all, so that what is dead in a run counts against it.
    """
    cosines_KL = _cosines(first_KD, second_LD)
    return float(cosines_KL[linear_sum_assignment(cosines_KL, maximize=True)].mean())


def stability(runs: Sequence[np.ndarray]) -> float:
    """Return ``matched_cosine``, the mean over all pairs of runs; NaN for a single run.

    1 where all seeds find the same rows, up to their order, scale and sign (Paulo & Belrose 2025,
    arXiv 2501.16615; Song et al. 2025, arXiv 2505.20254).

    Args:
        runs: one matrix a seed, ``(K, D)``.

    """
    matches = [matched_cosine(first, second) for first, second in combinations(runs, 2)]
    return float(np.mean(matches)) if matches else float("nan")


def _cosines(first_KD: np.ndarray, second_LD: np.ndarray) -> np.ndarray:
    """Return the sizes of the cosines between rows, float64, shape ``(K, L)``."""
    return np.abs(_unit_rows(first_KD) @ _unit_rows(second_LD).T).clip(max=1)


def _unit_rows(rows_KD: np.ndarray) -> np.ndarray:
    """Return the rows at length 1, float64; those of zeros as they are."""
    # By the largest weight first, so that no square under- or overflows.
    rows_KD = _divided(rows_KD.astype(np.float64), np.abs(rows_KD).max(1, initial=0))
    return _divided(rows_KD, np.linalg.norm(rows_KD, axis=1))


def _divided(rows_KD: np.ndarray, sizes_K: np.ndarray) -> np.ndarray:
    return rows_KD / np.where(sizes_K > 0, sizes_K, 1)[:, None]
