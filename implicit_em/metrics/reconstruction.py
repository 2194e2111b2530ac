"""Fraction of the input's variance that activations leave unexplained, in float64."""

from collections.abc import Iterator

import numpy as np
from scipy.linalg import pinvh

CUTOFF = 1e-10
"""Share of the largest eigenvalue of the units' correlation matrix below which others count as 0.

Such directions have 1e-5 of the strongest one's deviation, far more than float32 rounding.
"""
BLOCK = 4096


def fvu(x_ND: np.ndarray, reconstruction_ND: np.ndarray) -> float:
    """Return the fraction of variance unexplained, ``sum (x - x̂)² / sum (x - mean x)²``.

    Both sums run over samples and features; the mean is that of these samples. The result is 1 for
    the mean predictor and 0 for a perfect one (the normalised error of Gao et al. 2024, arXiv
    2406.04093), and NaN if no feature varies.
    """
    if not (x_ND != x_ND[0]).any():
        return float("nan")
    mean_D = x_ND.mean(0, dtype=np.float64)
    residual = variance = 0.0
    for rows in _blocks(len(x_ND)):
        x_BD = x_ND[rows].astype(np.float64)
        residual += np.square(x_BD - reconstruction_ND[rows]).sum()
        variance += np.square(x_BD - mean_D).sum()
    return float(residual / variance)


def least_squares_decoder(
    activations_NK: np.ndarray, x_ND: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight ``(K, D)`` and bias ``(D,)`` of the linear decoder of least squared error.

    It solves the normal equations of the standardised units, so a unit's scale and level do not
    matter. If units are constant or dependent, it takes the solution of least norm, in which
    constant units have weight 0.
    """
    if not (np.isfinite(activations_NK).all() and np.isfinite(x_ND).all()):
        raise ValueError("activations and inputs must be finite")
    mean_K, x_mean_D = (samples.mean(0, dtype=np.float64) for samples in (activations_NK, x_ND))
    varies_K = (activations_NK != activations_NK[0]).any(0)
    scale_K = varies_K / np.where(varies_K, activations_NK.std(0, dtype=np.float64), 1)
    gram_KK = np.zeros((len(mean_K), len(mean_K)))
    products_KD = np.zeros((len(mean_K), len(x_mean_D)))
    for rows in _blocks(len(x_ND)):
        standardised_BK = (activations_NK[rows] - mean_K) * scale_K
        gram_KK += standardised_BK.T @ standardised_BK
        products_KD += standardised_BK.T @ (x_ND[rows] - x_mean_D)
    weight_KD = scale_K[:, None] * (pinvh(gram_KK, rtol=CUTOFF) @ products_KD)
    return weight_KD, x_mean_D - mean_K @ weight_KD


def least_squares_fvu(
    train_activations_NK: np.ndarray,
    train_x_ND: np.ndarray,
    test_activations_MK: np.ndarray,
    test_x_MD: np.ndarray,
) -> float:
    """Return the test ``fvu`` of the least-squares decoder of the training activations.

    It tells how much of its input an encoder keeps, with any decoder or none. It exceeds 1 if units
    respond to test samples as they never did in training.
    """
    weight_KD, bias_D = least_squares_decoder(train_activations_NK, train_x_ND)
    return fvu(test_x_MD, test_activations_MK @ weight_KD + bias_D)


def _blocks(samples: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, samples, BLOCK))
