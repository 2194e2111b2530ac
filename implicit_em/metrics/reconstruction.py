"""Fraction of the input's variance that activations leave unexplained, and linear decoders."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implicit_em.metrics.sparse import add_products, csr_of, is_sparse

CUTOFF = 1e-10
"""Share of the largest eigenvalue of the units' correlation matrix below which another counts as 0.

A direction at this limit has 1e-5 of the strongest direction's deviation, far more than float32
rounding.
"""
RIDGE = 1e-3
"""Default strength of the ridge: it weighs as much as one activation in a thousand samples."""
BLOCK = 4096
"""Number of samples of a block."""
CONSTANT = 1e-12
"""Variance of a unit in squares of its mean, up to which float32 holds nothing but rounding."""

Pairs = Iterable[tuple[Tensor, Tensor]]


def fvu(x_ND: np.ndarray, reconstruction_ND: np.ndarray) -> float:
    """Return the fraction of variance unexplained, ``sum (x - x̂)² / sum (x - mean x)²``.

    Both sums run over samples and features, in float64. The mean is over these samples. The
    result is 1 for the mean predictor and 0 for a perfect one (the normalised error of Gao et al.
    2024, arXiv 2406.04093), and NaN if no feature varies.
    """
    return fvu_of(_blocks(x_ND, reconstruction_ND))


def fvu_of(pairs: Pairs) -> float:
    """Return ``fvu`` from blocks of inputs and their reconstructions, both ``(B, D)``.

    Sums over a block are in the precision of the block, sums over blocks in float64.
    """
    count, residual, squares, sums_D = 0, 0.0, 0.0, torch.zeros(())
    for x_BD, reconstruction_BD in pairs:
        if not count:
            origin_D = x_BD[0]
        # Relative to the first sample: exact for features that are constant or far from 0.
        moved_BD = x_BD - origin_D
        count += len(x_BD)
        sums_D = sums_D + moved_BD.sum(0).double()
        squares += _squares(moved_BD)
        residual += _squares(x_BD - reconstruction_BD)
    variance = squares - sums_D.square().sum().item() / count
    return residual / variance if squares else float("nan")


def least_squares_decoder(
    activations_NK: np.ndarray, x_ND: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight ``(K, D)`` and bias ``(D,)`` of the linear decoder of least squared error.

    It solves the normal equations of the standardised units in float64, so a unit's scale and level
    do not matter. If units are constant or dependent, it takes the solution of least norm, in which
    constant units have weight 0.
    """
    # Imported here: a run that is measured by a ridge decoder does not need it.
    from scipy.linalg import pinvh

    if not (np.isfinite(activations_NK).all() and np.isfinite(x_ND).all()):
        raise ValueError("activations and inputs must be finite")
    moments = _Moments(_blocks(activations_NK, x_ND))
    scale_K = _inverse_root(moments.variance_K)
    correlation_KK, covariance_KD = moments.scaled(scale_K)
    inverse_KK = torch.from_numpy(pinvh(correlation_KK.numpy(), rtol=CUTOFF))
    weight_KD, bias_D = moments.decoder(inverse_KK @ covariance_KD, scale_K)
    return weight_KD.numpy(), bias_D.numpy()


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


def ridge_decoder(pairs: Pairs, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Return weight ``(K, D)`` and bias ``(D,)`` of the decoder by ridge regression, float64.

    With ``z = (a - mean a) / s``, the weight of ``z`` is ``(mean z z^T + ridge I)^-1 mean z (x -
    mean x)^T``. The scale s of a unit is its root mean square deviation from its mean over the
    samples that activate it, or over all samples if that is larger. So a unit's scale and level do
    not matter, and the ridge weighs as much as ``ridge N`` activations of each unit. A unit that
    few samples activate is shrunk; by its standard deviation it would not be. Constant units have
    weight 0.

    Args:
        pairs: blocks of activations ``(B, K)`` with their inputs ``(B, D)``. Products of a block
            are in its precision, their sums in float64. The products of wide, sparse layers
            are in float64, too.
        ridge: strength of the ridge, above 0.
    """
    pairs = iter(pairs)
    head = next(pairs)
    # On a GPU, dense products are faster.
    sparse = head[0].device.type == "cpu" and is_sparse(head[0].numpy())
    moments = (_SparseMoments if sparse else _Moments)(chain([head], pairs))
    scale_K = _scale(moments.variance_K, moments.mean_K, moments.active_K)
    matrix_KK, covariance_KD = moments.scaled(scale_K)
    matrix_KK.diagonal().add_(ridge)
    return moments.decoder(torch.linalg.solve(matrix_KK, covariance_KD), scale_K)


def wide_ridge_decoder(pairs: Pairs, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Return what ``ridge_decoder`` returns, by an N x N matrix: it is smaller if K exceeds N."""
    activations_NK, x_ND = (torch.cat(blocks).double() for blocks in zip(*pairs, strict=True))
    mean_K, mean_D = activations_NK.mean(0), x_ND.mean(0)
    variance_K = (activations_NK - activations_NK[0]).var(0, correction=0)
    scale_K = _scale(variance_K, mean_K, (activations_NK != 0).double().mean(0))
    z_NK = (activations_NK - mean_K) * scale_K
    matrix_NN = z_NK @ z_NK.T
    matrix_NN.diagonal().add_(ridge * len(z_NK))
    weight_KD = z_NK.T @ torch.linalg.solve(matrix_NN, x_ND - mean_D)
    return _decoder(weight_KD, scale_K, mean_K, mean_D)


class _Moments:
    """Moments of activations and their inputs, and shares of active samples, in float64."""

    def __init__(self, pairs: Pairs) -> None:
        count, totals, first_K, first_D = self._sums(pairs)
        sum_K, sum_D, products_KK, products_KD, active_K = totals
        mean_K, mean_D = sum_K / count, sum_D / count
        self.covariance_KK = products_KK.div_(count).sub_(mean_K.outer(mean_K))
        self.covariance_KD = products_KD.div_(count).sub_(mean_K.outer(mean_D))
        self.variance_K = self.covariance_KK.diagonal().clone()
        self.mean_K, self.mean_D = mean_K + first_K, mean_D + first_D
        self.active_K = active_K / count

    def _sums(self, pairs: Pairs) -> tuple[int, list[Tensor], Tensor, Tensor]:
        """Return the number of samples, sums about an origin, and the origin."""
        count = 0
        totals: list[Tensor] = []
        for activations_BK, x_BD in pairs:
            if not count:
                first_K, first_D = activations_BK[0], x_BD[0]
            # Relative to the first sample: exact for units that are constant or far from 0.
            moved_BK, moved_BD = activations_BK - first_K, x_BD - first_D
            sums = (
                *(moved_BK.sum(0), moved_BD.sum(0)),
                *(moved_BK.T @ moved_BK, moved_BK.T @ moved_BD),
                activations_BK.count_nonzero(0),
            )
            if count:
                for total, part in zip(totals, sums, strict=True):
                    total += part
            else:
                totals = [part.double() for part in sums]
            count += len(x_BD)
        return count, totals, first_K, first_D

    def scaled(self, scale_K: Tensor) -> tuple[Tensor, Tensor]:
        """Return the covariances of scaled units, with each other and with inputs, in place."""
        covariance_KK = self.covariance_KK.mul_(scale_K.outer(scale_K))
        return covariance_KK, self.covariance_KD.mul_(scale_K[:, None])

    def decoder(self, weight_KD: Tensor, scale_K: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight and bias for the units, given the weight for the scaled units."""
        return _decoder(weight_KD, scale_K, self.mean_K, self.mean_D)


class _SparseMoments(_Moments):
    """Moments of a wide, sparse layer, by the products of active entries alone."""

    def __init__(self, pairs: Pairs) -> None:
        super().__init__(pairs)
        # Sums about 0 leave a constant unit a little variance.
        self.variance_K[self.variance_K <= CONSTANT * self.mean_K.square()] = 0

    def _sums(self, pairs: Pairs) -> tuple[int, list[Tensor], Tensor, Tensor]:
        count = 0
        for codes_BK, x_BD in _larger_blocks(pairs):
            if not count:
                first_D, units, width = x_BD[0], codes_BK.shape[1], x_BD.shape[1]
                shapes = ((units,), (width,), (units, units), (units, width), (units,))
                totals = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
                sum_K, sum_D, products_KK, products_KD, active_K = totals
            moved_BD = x_BD - first_D
            add_products(products_KK, codes_BK)
            products_KD += torch.from_numpy(codes_BK.T @ moved_BD.numpy())
            sum_K += torch.from_numpy(codes_BK.sum(0))
            sum_D += moved_BD.sum(0)
            active_K += torch.from_numpy(codes_BK.count_nonzero(0))
            count += len(x_BD)
        return count, totals, torch.zeros_like(sum_K), first_D


def _larger_blocks(pairs: Pairs) -> Iterator[tuple[Any, Tensor]]:
    """Yield blocks of ``BLOCK`` samples or more: codes as sparse arrays, and inputs, float64."""
    from scipy.sparse import vstack

    codes, inputs, count = [], [], 0
    for activations_BK, x_BD in pairs:
        codes.append(csr_of(activations_BK.numpy()).astype(np.float64))
        inputs.append(x_BD.double())
        count += len(x_BD)
        if count >= BLOCK:
            yield vstack(codes), torch.cat(inputs)
            codes, inputs, count = [], [], 0
    if count:
        yield vstack(codes), torch.cat(inputs)


def _decoder(
    weight_KD: Tensor, scale_K: Tensor, mean_K: Tensor, mean_D: Tensor
) -> tuple[Tensor, Tensor]:
    weight_KD = scale_K[:, None] * weight_KD
    return weight_KD, mean_D - mean_K @ weight_KD


def _squares(values: Tensor) -> float:
    """Return the sum of the squares of all elements."""
    flat = values.flatten()
    return flat.dot(flat).item()


def _scale(variance_K: Tensor, mean_K: Tensor, active_K: Tensor) -> Tensor:
    """Return 1 / s for each unit, given the share of the samples that activate it."""
    # A silent sample lies one mean away from the mean.
    of_active_K = variance_K - (1 - active_K) * mean_K.square()
    of_active_K /= active_K.clamp(min=torch.finfo(torch.float64).tiny)
    return _inverse_root(torch.where(variance_K <= 0, 0, of_active_K.maximum(variance_K)))


def _inverse_root(variance_K: Tensor) -> Tensor:
    """Return 1 over each standard deviation; 0 where rounding leaves no variance."""
    return torch.where(variance_K <= 0, 0, variance_K.rsqrt())


def _blocks(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield blocks of rows of both arrays as float64 tensors."""
    for start in range(0, len(first), BLOCK):
        rows = slice(start, start + BLOCK)
        # Copies: the arrays may be read-only.
        yield torch.tensor(first[rows]).double(), torch.tensor(second[rows]).double()
