"""The terms of the objective, one pure function each.

``energies`` has shape ``(..., B, K)``: any leading dimensions (a stack of replicas), then B samples
and K components. Each function returns shape ``(...)``: one loss for each leading index. A low
energy means that a component explains a sample well. Energies of half precision are taken to
float32 first.

The three terms of the derived objective bring their gradients in closed form: that of LSE is the
responsibilities, to the last bit and at any level of the energies, and a step saves the dozens of
small operations that autograd would record. ``evaluate`` computes several of them at once, with one
set of batch statistics and one gradient.

A term asks for what it needs by the names of its parameters: ``energies``, ``weight`` (the K x D
encoder matrix), ``x`` (the input) or ``reconstruction``. Everything with a default is an option.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Reduction = Literal["sum", "mean"]
Gradient = Callable[[Tensor], Iterable[tuple[Tensor, Tensor]]]
"""From a factor ``(..., 1, 1)`` to pairs whose products add up to a term's gradient times it."""


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
    return evaluate(energies, [(lse, {"reduction": reduction})])[0]


def variance(energies: Tensor, eps: float = 1e-6) -> Tensor:
    """Variance: ``-sum_j log(Var(E_j) + eps)``, unbiased over the batch; no component may die.

    The diagonal of the mixture's log-determinant (Oursland 2026, arXiv 2601.06478). Unbounded
    below: it rewards growing energies for ever.

    Args:
        energies: shape ``(..., B, K)`` with B >= 2; the variance of one sample is NaN.
        eps: keeps the logarithm finite for a component that never varies.

    """
    return evaluate(energies, [(variance, {"eps": eps})])[0]


def decorrelation(energies: Tensor) -> Tensor:
    """Decorrelation: ``sum_{i != j} Corr(E)_ij^2``; no two components may be the same.

    A proxy of total correlation (Oursland 2026, arXiv 2601.06478); nearest relative: the
    off-diagonal term of Barlow Twins (Zbontar 2021). The correlation is that of the batch, and a
    component that does not vary contributes 0. Takes O(min(B, K) B K) operations.

    Args:
        energies: shape ``(..., B, K)``.

    """
    return evaluate(energies, [(decorrelation, {})])[0]


def evaluate(
    energies: Tensor, terms: Sequence[tuple[Callable[..., Tensor], Mapping[str, Any]]]
) -> tuple[Tensor, ...]:
    """Return the value, shape ``(...)``, of each term that has a closed form.

    Args:
        energies: shape ``(..., B, K)``.
        terms: keys of ``CLOSED_FORMS``, each with its options.

    """
    forms = [(CLOSED_FORMS[function], options) for function, options in terms]
    return _ClosedForms.apply(_full_precision(energies), forms)


class _Batch:
    """A batch of energies and its statistics, computed when the first term asks for them."""

    def __init__(self, energies: Tensor) -> None:
        self.energies = energies
        self.size = energies.shape[-2]
        self._statistics: tuple[Tensor, Tensor, Tensor] | None = None

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean, the centred energies and the sum of their squares, over the batch."""
        if self._statistics is None:
            mean = self.energies.mean(-2, keepdim=True)
            centred = self.energies - mean
            self._statistics = mean, centred, centred.square().sum(-2, keepdim=True)
        return self._statistics


class _ClosedForms(Function):
    """Several terms of one batch: the values, and the sum of their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        energies: Tensor,
        forms: Sequence[tuple[Callable[..., tuple[Tensor, Gradient]], Mapping[str, Any]]],
    ) -> tuple[Tensor, ...]:
        batch = _Batch(energies)
        values, ctx.gradients = zip(
            *(form(batch, **options) for form, options in forms), strict=True
        )
        ctx.set_materialize_grads(False)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        total: Tensor | None = None
        for gradient, grad in zip(ctx.gradients, grads, strict=True):
            if grad is not None:
                for tensor, factor in gradient(grad[..., None, None]):
                    total = tensor * factor if total is None else total.addcmul_(tensor, factor)
        return total, None


def _lse(batch: _Batch, reduction: Reduction = "sum") -> tuple[Tensor, Gradient]:
    """``-log sum_j exp(-E_j)``; gradient ``r = softmax(-E)``."""
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction={reduction!r}: allowed are 'sum' and 'mean'")
    lowest = batch.energies.amin(-1, keepdim=True)
    likelihoods = (lowest - batch.energies).exp_()
    evidence = likelihoods.sum(-1, keepdim=True)
    responsibilities = likelihoods.div_(evidence)
    total = (lowest - evidence.log()).sum((-2, -1))

    def gradient(factor: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        yield responsibilities, factor if reduction == "sum" else factor / batch.size

    return total if reduction == "sum" else total / batch.size, gradient


def _variance(batch: _Batch, eps: float = 1e-6) -> tuple[Tensor, Gradient]:
    """``-sum_j log(Var_j + eps)``; gradient ``-2 (E - mean) / ((B - 1) (Var + eps))``."""
    _, centred, squares = batch.statistics()
    freedom = batch.size - 1
    floored = (squares / freedom).add_(eps)

    def gradient(factor: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        yield centred, factor * (-2 / freedom) / floored

    return -floored.log().sum((-2, -1)), gradient


def _decorrelation(batch: _Batch) -> tuple[Tensor, Gradient]:
    """``||C - diag C||_F^2`` of ``C = Z^T Z``, Z the standardised energies.

    Gradient ``s (G - Z sum_b(Z G))`` with ``G = 4 Z (C - diag C)`` and s the scale of Z. Where there
    are more components than samples, the B x B matrix ``Z Z^T`` takes the place of the K x K one,
    with the same norm and ``(Z Z^T) Z = Z C``.
    """
    mean, centred, squares = batch.statistics()
    # Centring leaves an error of a few eps * |mean| in each of the B entries: a component that
    # varies no more does not vary.
    rounding = batch.size * (8 * torch.finfo(mean.dtype).eps * mean).square_()
    scale = torch.where(squares > rounding, squares, torch.inf).rsqrt_()
    standardised = centred * scale
    wide = standardised.shape[-1] > batch.size
    with torch.autocast(mean.device.type, enabled=False):
        if wide:
            gram = standardised @ standardised.mT
            diagonal = standardised.square().sum(-2, keepdim=True)
            value = gram.square().sum((-2, -1)) - diagonal.square().sum((-2, -1))
        else:
            gram = standardised.mT @ standardised
            gram.diagonal(dim1=-2, dim2=-1).zero_()
            value = gram.square().sum((-2, -1))

    def gradient(factor: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        if wide:
            pull = (gram @ standardised).sub_(standardised * diagonal)
        else:
            pull = standardised @ gram
        radial = (standardised * pull).sum(-2, keepdim=True)
        slope = 4 * factor * scale
        yield pull, slope
        yield standardised, -slope * radial

    return value, gradient


CLOSED_FORMS: Mapping[Callable[..., Tensor], Callable[..., tuple[Tensor, Gradient]]] = {
    lse: _lse,
    variance: _variance,
    decorrelation: _decorrelation,
}


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


TAKE_STACKS = frozenset({lse, variance, decorrelation, orthogonality, mse, l1})
"""The functions above: a stack of replicas gives each of them the bits that it gets alone."""
