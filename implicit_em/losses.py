"""The terms of the objective, one pure function each.

``energies`` has shape ``(..., B, K)``: any leading dimensions (a stack of replicas), then B samples
and K components. Each function returns shape ``(...)``: one loss for each leading index. A low
energy means that a component explains a sample well.

A term asks for what it needs by the names of its parameters: ``energies``, ``weight`` (the K x D
encoder matrix), ``x`` (the input) or ``reconstruction``. Everything with a default is an option.
"""

from typing import Literal

import torch
from torch import Tensor

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
    per_sample = -torch.logsumexp(-energies, dim=-1)
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
    return -(energies.var(dim=-2) + eps).log().sum(-1)


def decorrelation(energies: Tensor) -> Tensor:
    """Decorrelation: ``sum_{i != j} Corr(E)_ij^2``; no two components may be the same.

    A proxy of total correlation (Oursland 2026, arXiv 2601.06478); nearest relative: the
    off-diagonal term of Barlow Twins (Zbontar 2021). The correlation is that of the batch, and a
    component that does not vary contributes 0.

    Args:
        energies: shape ``(..., B, K)``.

    """
    correlations = batch_correlations(energies)
    diagonal = correlations.diagonal(dim1=-2, dim2=-1)
    return correlations.square().sum((-2, -1)) - diagonal.square().sum(-1)


def batch_correlations(energies: Tensor) -> Tensor:
    """Correlations of the components over the batch, ``(..., B, K)`` to ``(..., K, K)``.

    Rows and columns of a component that does not vary beyond rounding are 0, also on the diagonal.
    """
    mean = energies.mean(dim=-2, keepdim=True)
    centred = energies - mean
    squares = centred.square().sum(dim=-2, keepdim=True)
    # Centring leaves an error of a few eps * |mean| in each of the B entries.
    rounding = energies.shape[-2] * (8 * torch.finfo(energies.dtype).eps * mean.detach()).square()
    standardised = centred * torch.where(squares > rounding, squares, torch.inf).rsqrt()
    return standardised.mT @ standardised


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
