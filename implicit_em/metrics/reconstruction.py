"""Fraction of the input's variance that activations leave unexplained, and linear decoders."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
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
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Strengths of the ridge to choose from; 1e-3 weighs as much as an activation in 1,000 samples."""
BLOCK = 4096
"""Number of samples of a block."""
CONSTANT = 1e-12
"""Variance of a unit in squares of its mean, up to which float32 holds nothing but rounding."""

Pairs = Iterable[tuple[Tensor, Tensor]]
Affine = tuple[Tensor, Tensor]
"""Weight ``(K, D)`` and bias ``(D,)`` of a linear decoder."""


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
    regression = _Moments(torch.tensor(activations_NK[0]), torch.tensor(x_ND[0]))
    regression.add(_blocks(activations_NK, x_ND))
    mean_K, mean_D, covariance_KK, covariance_KD = regression.moments()
    scale_K = _inverse_root(covariance_KK.diagonal())
    correlation_KK = covariance_KK.mul_(scale_K.outer(scale_K))
    inverse_KK = torch.from_numpy(pinvh(correlation_KK.numpy(), rtol=CUTOFF))
    weight_KD = scale_K[:, None] * (inverse_KK @ (scale_K[:, None] * covariance_KD))
    weight_KD, bias_D = _decoder(weight_KD, mean_K, mean_D)
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


def ridge_decoder(
    pairs: Pairs, ridge: float, own: Affine | None = None, wide: bool = False
) -> Affine:
    """Return weight ``(K, D)`` and bias ``(D,)`` of the decoder by ridge regression, float64.

    With ``z = (a - mean a) / s``, the weight of ``z`` is ``V + (mean z z^T + ridge I)^-1 mean z (x
    - mean x - V^T z)^T``. Here V is the weight of the model's own decoder, for z, or 0: the ridge
    shrinks the difference from it. The scale s of a unit is its root mean square deviation from its
    mean over the samples that activate it, or over all samples if that is larger. So a unit's scale
    and level do not matter, and the ridge weighs as much as ``ridge N`` activations of each unit. A
    unit that few samples activate is shrunk; by its standard deviation it would not be. Constant
    units keep their own weight, or have weight 0.

    Among the samples of the fit, the decoder's squared error is at most the own decoder's.

    Args:
        pairs: blocks of activations ``(B, K)`` with their inputs ``(B, D)``. Products of a block
            are in its precision, their sums in float64. The products of wide, sparse layers
            are in float64, too.
        ridge: strength of the ridge, above 0.
        own: weight and bias of the model's own decoder; ``None`` if it has none.
        wide: whether an N x N matrix is solved, which is smaller if K exceeds N. All activations
            are then held in memory.
    """
    return next(_regression(pairs, wide).decoders([ridge], own))


def chosen_ridge_decoder(
    pairs: Callable[[], Pairs],
    held: Callable[[], Pairs] | None = None,
    own: Affine | None = None,
    wide: bool = False,
) -> tuple[Affine, float]:
    """Return a decoder of ``ridge_decoder`` and its strength, chosen on held-out samples.

    The decoders of all ``STRENGTHS`` are fitted to the pairs. The one of least squared error on the
    held-out pairs is chosen. The own decoder itself, bias and all, is a candidate of infinite
    strength: so on the held-out pairs, the chosen decoder is never worse.

    Without held-out pairs, every fifth sample of a block is held out for the choice. The decoder of
    the chosen strength is then fitted to all pairs, and is never worse than the own one on them.

    Args:
        pairs: function that returns the blocks to fit to.
        held: function that returns the blocks to choose by.
        own: see ``ridge_decoder``.
        wide: see ``ridge_decoder``.
    """
    fitted = pairs if held else partial(_part, pairs, False)
    judging = held or partial(_part, pairs, True)
    regression = _regression(fitted(), wide)
    candidates = {} if own is None else {math.inf: own}
    candidates |= zip(STRENGTHS, regression.decoders(STRENGTHS, own), strict=True)
    errors_S = torch.zeros(len(candidates), dtype=torch.float64)
    sparse = isinstance(regression, _SparseMoments)
    for codes_BK, x_BD in _larger_blocks(judging()) if sparse else judging():
        for place, (weight_KD, bias_D) in enumerate(candidates.values()):
            decoded_BD = _products(codes_BK, weight_KD) + bias_D.to(x_BD.dtype)
            errors_S[place] += _squares(x_BD - decoded_BD)
    ridge = list(candidates)[int(errors_S.nan_to_num(torch.inf).argmin())]
    if held or ridge == math.inf:
        return candidates[ridge], ridge
    regression.add(judging())
    return next(regression.decoders([ridge], own)), ridge


def _part(pairs: Callable[[], Pairs], held: bool) -> Pairs:
    """Yield every fifth sample of each block, which is held out, or the others."""
    for activations_BK, x_BD in pairs():
        rows_B = (torch.arange(len(x_BD), device=x_BD.device) % 5 == 0) == held
        yield activations_BK[rows_B], x_BD[rows_B]


def _regression(pairs: Pairs, wide: bool) -> Any:
    """Return a regression of inputs on activations, with ``add`` and ``decoders``."""
    pairs = iter(pairs)
    activations_BK, x_BD = head = next(pairs)
    # On a GPU, dense products are faster.
    sparse = activations_BK.device.type == "cpu" and is_sparse(activations_BK.numpy())
    kind = _Samples if wide else _SparseMoments if sparse else _Moments
    regression = kind(activations_BK[0], x_BD[0])
    regression.add(chain([head], pairs))
    return regression


class _Moments:
    """Sums of activations and inputs, and of their products, in float64.

    Sums are relative to the first sample: exact for units that are constant or far from 0.
    """

    constant = 0.0
    """Variance of a unit in squares of its mean, up to which the unit is constant."""

    def __init__(self, first_K: Tensor, first_D: Tensor) -> None:
        self.count, self.first_K, self.first_D = 0, first_K, first_D
        units, width = len(first_K), len(first_D)
        shapes = ((units,), (width,), (units, units), (units, width), (units,))
        self.sums = [first_K.new_zeros(shape, dtype=torch.float64) for shape in shapes]

    def add(self, pairs: Pairs) -> None:
        """Add blocks of activations and inputs."""
        for activations_BK, x_BD in pairs:
            moved_BK, moved_BD = activations_BK - self.first_K, x_BD - self.first_D
            parts = (
                *(moved_BK.sum(0), moved_BD.sum(0)),
                *(moved_BK.T @ moved_BK, moved_BK.T @ moved_BD),
                activations_BK.count_nonzero(0),
            )
            for total, part in zip(self.sums, parts, strict=True):
                total += part
            self.count += len(x_BD)

    def moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return means of activations and inputs, and the activations' covariances with both."""
        sum_K, sum_D, products_KK, products_KD = (total / self.count for total in self.sums[:4])
        means = sum_K + self.first_K, sum_D + self.first_D
        return *means, products_KK.sub_(sum_K.outer(sum_K)), products_KD.sub_(sum_K.outer(sum_D))

    def decoders(self, strengths: Sequence[float], own: Affine | None) -> Iterator[Affine]:
        """Yield the decoder of each strength; see ``ridge_decoder``."""
        mean_K, mean_D, matrix_KK, rest_KD = self.moments()
        variance_K = matrix_KK.diagonal().clone()
        variance_K[variance_K <= self.constant * mean_K.square()] = 0
        scale_K = _scale(variance_K, mean_K, self.sums[4] / self.count)
        own_KD = _own_weight(own, mean_K, mean_D)
        rest_KD.sub_(matrix_KK @ own_KD).mul_(scale_K[:, None])
        matrix_KK.mul_(scale_K.outer(scale_K))
        for solved_KD in _solutions(matrix_KK, rest_KD, strengths):
            yield _decoder(own_KD + scale_K[:, None] * solved_KD, mean_K, mean_D)


class _SparseMoments(_Moments):
    """Sums of a wide, sparse layer, by the products of active entries alone."""

    # Sums about 0 leave a constant unit a little variance.
    constant = CONSTANT

    def __init__(self, first_K: Tensor, first_D: Tensor) -> None:
        super().__init__(torch.zeros_like(first_K), first_D)

    def add(self, pairs: Pairs) -> None:
        """Add blocks of activations and inputs."""
        sum_K, sum_D, products_KK, products_KD, active_K = self.sums
        for codes_BK, x_BD in _larger_blocks(pairs):
            moved_BD = x_BD - self.first_D
            add_products(products_KK, codes_BK)
            products_KD += torch.from_numpy(codes_BK.T @ moved_BD.numpy())
            sum_K += torch.from_numpy(codes_BK.sum(0))
            sum_D += moved_BD.sum(0)
            active_K += torch.from_numpy(codes_BK.count_nonzero(0))
            self.count += len(x_BD)


class _Samples:
    """Activations and their inputs, for the decoders of an N x N matrix."""

    def __init__(self, *_: Tensor) -> None:
        self.blocks: list[tuple[Tensor, Tensor]] = []

    def add(self, pairs: Pairs) -> None:
        """Add blocks of activations and inputs."""
        self.blocks += pairs

    def decoders(self, strengths: Sequence[float], own: Affine | None) -> Iterator[Affine]:
        """Yield the decoder of each strength; see ``ridge_decoder``."""
        activations_NK, x_ND = (torch.cat(side).double() for side in zip(*self.blocks, strict=True))
        mean_K, mean_D = activations_NK.mean(0), x_ND.mean(0)
        variance_K = (activations_NK - activations_NK[0]).var(0, correction=0)
        scale_K = _scale(variance_K, mean_K, (activations_NK != 0).double().mean(0))
        own_KD = _own_weight(own, mean_K, mean_D)
        moved_NK = activations_NK - mean_K
        rest_ND = x_ND - mean_D - moved_NK @ own_KD
        z_NK = moved_NK * scale_K
        for solved_ND in _solutions(z_NK @ z_NK.T, rest_ND, [len(x_ND) * s for s in strengths]):
            yield _decoder(own_KD + scale_K[:, None] * (z_NK.T @ solved_ND), mean_K, mean_D)


def _solutions(matrix: Tensor, rest: Tensor, strengths: Sequence[float]) -> Iterator[Tensor]:
    """Yield ``(M + s I)^-1 R`` for each strength s; M changes in place.

    Each has a factorisation of its own: at K = 3,072, five of them take a third of the time of
    the eigenvectors, and rounding may leave M eigenvalues below 0, which Cholesky's does not allow.
    """
    diagonal = matrix.diagonal().clone()
    for strength in strengths:
        matrix.diagonal().copy_(diagonal + strength)
        yield torch.linalg.solve(matrix, rest)


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


def _products(codes_BK: Any, weight_KD: Tensor) -> Tensor:
    """Return codes times a weight, in the codes' precision; codes may be a sparse array."""
    if isinstance(codes_BK, Tensor):
        return codes_BK @ weight_KD.to(codes_BK.dtype)
    return torch.from_numpy(codes_BK @ weight_KD.numpy())


def _own_weight(own: Affine | None, mean_K: Tensor, mean_D: Tensor) -> Tensor:
    """Return the weight ``(K, D)`` of the own decoder, or zeros, float64."""
    return mean_K.new_zeros(len(mean_K), len(mean_D)) if own is None else own[0].double()


def _decoder(weight_KD: Tensor, mean_K: Tensor, mean_D: Tensor) -> Affine:
    """Return a weight and the bias that gives the mean input for the mean activations."""
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
