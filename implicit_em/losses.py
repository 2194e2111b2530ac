"""The terms of the objective, one pure function each.

``energies`` has shape ``(..., B, K)``: any leading dimensions (a stack of replicas), then B samples
and K components. Each function returns shape ``(...)``: one loss for each leading index. A low
energy means that a component explains a sample well. Energies of half precision are taken to
float32 first.

The three terms of the derived objective bring their gradients in closed form: that of LSE is the
responsibilities, to the last bit and at any level of the energies, and a step saves the dozens of
small operations that autograd would record.

A term asks for what it needs by the names of its parameters: ``energies``, ``weight`` (the K x D
encoder matrix), ``x`` (the input) or ``reconstruction``. Everything with a default is an option.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Reduction = Literal["sum", "mean"]


def lse(energies: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Log-sum-exp: the negative log-likelihood of a mixture, ``-log sum_j exp(-E_j)``.

    Its gradient with respect to ``E_j`` is exactly the responsibility ``r_j = softmax(-E)_j``, so
    that a forward pass is an E-step and a backward pass an M-step (Oursland 2026, arXiv
    2601.06478).

    Args:
        energies: shape ``(..., B, K)``.
        reduction: over the batch. ``sum`` is the paper's protocol, in which the weight of this term
            against the batch statistics grows with B; ``mean`` does not depend on the batch size.

    Raises:
        ValueError: for another reduction.

    """
    per_sample = _LogSumExp.apply(_full_precision(energies))
    if reduction == "sum":
        return per_sample.sum(-1)
    if reduction == "mean":
        return per_sample.mean(-1)
    raise ValueError(f"reduction={reduction!r}: allowed are 'sum' and 'mean'")


def variance(energies: Tensor, eps: float = 1e-6) -> Tensor:
    """Variance: ``-sum_j log(Var(E_j) + eps)``, unbiased over the batch; no component may die.

    The diagonal of the mixture's log-determinant (Oursland 2026, arXiv 2601.06478). Unbounded
    below: it rewards growing energies for ever.

    Args:
        energies: shape ``(..., B, K)`` with B >= 2; the variance of one sample is NaN.
        eps: keeps the logarithm finite for a component that never varies.

    """
    return _Variance.apply(_full_precision(energies), eps)


def decorrelation(energies: Tensor) -> Tensor:
    """Decorrelation: ``sum_{i != j} Corr(E)_ij^2``; no two components may be the same.

    A proxy of total correlation (Oursland 2026, arXiv 2601.06478); nearest relative: the
    off-diagonal term of Barlow Twins (Zbontar 2021). The correlation is that of the batch, and a
    component that does not vary contributes 0.

    Args:
        energies: shape ``(..., B, K)``.

    """
    return _Decorrelation.apply(_full_precision(energies))


class _LogSumExp(Function):
    """``-log sum_j exp(-E_j)`` of each sample; gradient ``r = softmax(-E)``."""

    @staticmethod
    def forward(ctx: Any, energies: Tensor) -> Tensor:
        lowest = energies.amin(-1, keepdim=True)
        likelihoods = (lowest - energies).exp_()
        evidence = likelihoods.sum(-1, keepdim=True)
        ctx.save_for_backward(likelihoods.div_(evidence))  # the responsibilities
        return (lowest - evidence.log()).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (responsibilities,) = ctx.saved_tensors
        return responsibilities * grad.unsqueeze(-1)


class _Variance(Function):
    """``-sum_j log(Var_j + eps)``; gradient ``-2 (E - mean) / ((B - 1) (Var + eps))``."""

    @staticmethod
    def forward(ctx: Any, energies: Tensor, eps: float) -> Tensor:
        freedom = energies.shape[-2] - 1
        centred = energies - energies.mean(-2, keepdim=True)
        floored = (centred.square().sum(-2, keepdim=True) / freedom).add_(eps)
        ctx.save_for_backward(centred, floored)
        ctx.freedom = freedom
        return -floored.log().sum((-2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        centred, floored = ctx.saved_tensors
        return centred * (grad[..., None, None] * (-2 / ctx.freedom) / floored), None


class _Decorrelation(Function):
    """``||C - diag C||_F^2`` of ``C = Z^T Z``, Z the standardised energies.

    Gradient ``s (G - Z sum_b(Z G))`` with ``G = 4 Z (C - diag C)`` and s the scale of Z.
    """

    @staticmethod
    def forward(ctx: Any, energies: Tensor) -> Tensor:
        mean = energies.mean(-2, keepdim=True)
        centred = energies - mean
        squares = centred.square().sum(-2, keepdim=True)
        # Centring leaves an error of a few eps * |mean| in each of the B entries: a component that
        # varies no more does not vary.
        rounding = energies.shape[-2] * (8 * torch.finfo(energies.dtype).eps * mean).square_()
        scale = torch.where(squares > rounding, squares, torch.inf).rsqrt_()
        standardised = centred.mul_(scale)
        with torch.autocast(energies.device.type, enabled=False):
            correlations = standardised.mT @ standardised
        correlations.diagonal(dim1=-2, dim2=-1).zero_()
        ctx.save_for_backward(standardised, scale, correlations)
        return correlations.square().sum((-2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        standardised, scale, correlations = ctx.saved_tensors
        pull = standardised @ correlations
        radial = (standardised * pull).sum(-2, keepdim=True)
        return (pull - standardised * radial).mul_(4 * grad[..., None, None] * scale)


def _full_precision(energies: Tensor) -> Tensor:
    return energies if energies.dtype in (torch.float32, torch.float64) else energies.float()


def orthogonality(weight: Tensor) -> Tensor:
    """Weight orthogonality: ``||W W^T - I||_F^2``, for K unit rows at right angles.

    A constraint on the parameters instead of on the activity; off in every published setting.

    Args:
        weight: the encoder matrix, shape ``(..., K, D)``.

    """
    gram = weight @ weight.mT
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return (gram - identity).square().sum((-2, -1))


def mse(reconstruction: Tensor, x: Tensor) -> Tensor:
    """Mean squared error over all elements of ``(..., B, D)``."""
    return (reconstruction - x).square().mean((-2, -1))


def l1(energies: Tensor) -> Tensor:
    """Mean absolute activation over all elements of ``(..., B, K)``; an SAE's sparsity penalty."""
    return energies.abs().mean((-2, -1))
