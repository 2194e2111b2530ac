"""The terms of the objective, one pure function each.

``energies`` has shape ``(..., B, K)``: B samples and K components, after any leading dimensions (a
stack of replicas). Each function returns shape ``(...)``, one loss for each leading index. A low
energy means that a component explains a sample well. Half precision is converted to float32 first.

The three terms of the derived objective have gradients in closed form. The gradient of LSE is the
responsibilities, to the last bit and at any level of the energies. A step also saves the dozens of
small operations that autograd would record. ``evaluate`` computes several terms at once, with one
set of batch statistics and one gradient.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from implicit_em.base.placement import full_precision
from implicit_em.base.values import check_number, check_word
from implicit_em.losses.stacking import makes_sparse, takes_stacks

Reduction = Literal["sum", "mean", "count"]
PairReduction = Literal["sum", "mean"]
Gradient = Callable[[Tensor], Iterable[tuple[float, Tensor, Tensor]]]
"""From a weight ``(R, 1, 1)`` to triples; the sum of their products is the weighted gradient."""


@makes_sparse
@takes_stacks
def lse(energies: Tensor, reduction: Reduction = "sum", temperature: float = 1.0) -> Tensor:
    """Log-sum-exp: the negative log-likelihood of a mixture, ``-log sum_j exp(-E_j)``.

    Its gradient with respect to ``E_j`` is exactly the responsibility ``r_j = softmax(-E)_j``. So a
    forward pass is an E-step, and a backward pass a step of the M-step (Oursland 2026, arXiv
    2601.06478). At a temperature t it is the free energy ``-t log sum_j exp(-E_j / t)``, with
    responsibilities ``softmax(-E / t)`` (deterministic annealing: Rose 1998).

    Args:
        energies: shape ``(..., B, K)``.
        reduction: how samples are combined. ``sum`` is the paper's protocol: the weight of this
            term against the batch statistics grows with B. ``mean`` does not depend on B. ``count``
            is K times the mean. With few active units, ``K (LSE + log K)`` is then about ``sum_j (1
            - exp(-E_j))``, a soft count of them, which depends neither on B nor on K.
        temperature: divisor t of the energies, above 0. With ReLU, and if no other term depends on
            the scale of the energies, t and t = 1 with t times the weight have the same optima.

    Raises:
        ValueError: if ``reduction`` is another word, or ``temperature`` is not above 0 and finite.
    """
    return evaluate(energies, [(lse, {"reduction": reduction, "temperature": temperature})])[0]


@takes_stacks
def variance(energies: Tensor, eps: float = 1e-6) -> Tensor:
    """Variance: ``-sum_j log(Var(E_j) + eps)``, unbiased over the batch; keeps components alive.

    It is the diagonal of the log-determinant of the energies' covariance (Oursland 2026, arXiv
    2601.06478). It has no lower bound: larger energies always lower it.

    Args:
        energies: shape ``(..., B, K)`` with B >= 2; the variance of one sample is NaN.
        eps: constant added to the variance; the logarithm is finite even for a constant component.
    """
    return evaluate(energies, [(variance, {"eps": eps})])[0]


@takes_stacks
def decorrelation(
    energies: Tensor, unbiased: bool = False, reduction: PairReduction = "sum"
) -> Tensor:
    """Decorrelation: ``sum_{i != j} Corr(E)_ij^2`` over the batch; keeps components different.

    It is a proxy of total correlation (Oursland 2026, arXiv 2601.06478), close to the off-diagonal
    term of Barlow Twins (Zbontar 2021). A component that does not vary contributes 0. The cost is
    O(min(B, K) B K) operations.

    Independent components have correlations of about ``1 / sqrt(B - 1)`` in a batch, which add
    ``K (K - 1) / (B - 1)`` to the sum. With ``unbiased``, each squared correlation is instead the
    mean of ``u_bi u_bj u_ci u_cj`` over the pairs of two different samples b and c, where u are the
    energies at zero mean and unit variance over the batch. A sample's product with itself, which is
    never negative, is left out. What remains is the small bias of the batch's own means and
    variances, and the value may fall below 0.

    K vectors in D dimensions cannot all be at right angles if K exceeds D. Add up the squared
    cosines of a vector with all K vectors. The mean of this sum over the vectors is at least K / D
    (Welch 1974). For linear energies of whitened samples, the cosines are the correlations. So the
    sum pulls on each component with a force that grows with K. With ``mean``, the force does not.

    Args:
        energies: shape ``(..., B, K)``.
        unbiased: whether to leave the products of samples with themselves out.
        reduction: ``sum``, as in the paper, over all pairs of components. ``mean`` is the sum over
            the pairs of one component, averaged over the components.

    Raises:
        ValueError: if ``unbiased`` is set for a single sample, or ``reduction`` is another word.
    """
    options = {"unbiased": unbiased, "reduction": reduction}
    return evaluate(energies, [(decorrelation, options)])[0]


CLOSED_FORMS = (lse, variance, decorrelation)
"""Terms with a method of their name in ``_Batch``, here and in ``coded``: value and gradient."""
Terms = Sequence[tuple[Callable[..., Tensor], Mapping[str, Any]]]
"""Functions of ``CLOSED_FORMS``, each with its options."""


def evaluate(energies: Tensor, terms: Terms) -> tuple[Tensor, ...]:
    """Return the value of each term, shape ``(...)``, for energies ``(..., B, K)``."""
    leading = energies.shape[:-2]
    with full_precision(energies):
        values = _ClosedForms.apply(single(energies).reshape(-1, *energies.shape[-2:]), terms)
    return tuple(value.view(leading) for value in values)


def value_and_gradient(
    energies: Tensor, terms: Terms, weights: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Return the unweighted terms, shape ``(R,)``, and the gradient of their weighted sum.

    The energies have shape ``(R, B, K)``, and each weight has shape ``(R, 1, 1)``.
    """
    with full_precision(energies):
        values, gradients = _apply_forms(single(energies.detach()), terms)
        return list(values), _weighted_sum(gradients, weights).to(energies.dtype)


class _Batch:
    """Batches of energies ``(R, B, K)``; the first term that needs the statistics computes them."""

    def __init__(self, energies: Tensor) -> None:
        self.energies = energies
        self.size = energies.shape[-2]

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """The mean, the centred energies and the sum of their squares, over the batch."""
        mean = self.energies.mean(-2, keepdim=True)
        centred = self.energies - mean
        return mean, centred, centred.square().sum(-2, keepdim=True)

    def lse(
        self, reduction: Reduction = "sum", temperature: float = 1.0
    ) -> tuple[Tensor, Gradient]:
        """``-t log sum_j exp(-E_j / t)``; gradient ``r = softmax(-E / t)``."""
        factor, divisor = lse_factors(reduction, temperature, *self.energies.shape[-2:])
        lowest = self.energies.amin(-1, keepdim=True)
        logits = lowest - self.energies
        if temperature != 1:
            logits = logits.div_(temperature)
        likelihoods = logits.exp_()
        evidence = likelihoods.sum(-1, keepdim=True)
        responsibilities = likelihoods.div_(evidence)
        total = (lowest - temperature * evidence.log()).sum((-2, -1))

        def gradient(weight: Tensor) -> Iterable[tuple[float, Tensor, Tensor]]:
            yield factor / divisor, responsibilities, weight

        return total * factor / divisor, gradient

    def variance(self, eps: float = 1e-6) -> tuple[Tensor, Gradient]:
        """``-sum_j log(Var_j + eps)``; gradient ``-2 (E - mean) / ((B - 1) (Var + eps))``."""
        _, centred, squares = self.statistics
        freedom = self.size - 1
        floored = (squares / freedom).add_(eps)

        def gradient(weight: Tensor) -> Iterable[tuple[float, Tensor, Tensor]]:
            yield -2 / freedom, centred, weight / floored

        return -floored.log().sum((-2, -1)), gradient

    def decorrelation(
        self, unbiased: bool = False, reduction: PairReduction = "sum"
    ) -> tuple[Tensor, Gradient]:
        """``||C - diag C||_F^2`` of ``C = Z^T Z``, Z the standardised energies.

        The gradient is ``s (G - Z sum_b(Z G))`` with ``G = 4 Z (C - diag C)`` and s the scale of Z.
        If there are more components than samples, the B x B matrix ``Z Z^T`` replaces the K x K
        one: both have the same norm, and ``(Z Z^T) Z = Z C``.

        The unbiased form subtracts the samples' products with themselves, ``sum_b |z_b|^4 -
        sum Z^4``, and multiplies by ``B / (B - 1)``; G loses ``4 (|z_b|^2 Z - Z^3)``. The mean form
        divides by K.
        """
        factor = pair_factor(unbiased, reduction, *self.energies.shape[-2:])
        mean, centred, squares = self.statistics
        scale = inverse_lengths(mean, squares, self.size, torch.finfo(mean.dtype).eps)
        standardised = centred * scale
        wide = standardised.shape[-1] > self.size
        if wide:
            gram = torch.bmm(standardised, standardised.mT)
            diagonal = standardised.square().sum(-2, keepdim=True)
            value = gram.square().sum((-2, -1)) - diagonal.square().sum((-2, -1))
        else:
            gram = torch.bmm(standardised.mT, standardised)
            gram.diagonal(dim1=-2, dim2=-1).zero_()
            value = gram.square().sum((-2, -1))
        if unbiased:
            of_itself = standardised.square()
            lengths = of_itself.sum(-1, keepdim=True)
            value = value - lengths.square().sum((-2, -1)) + of_itself.square().sum((-2, -1))

        def gradient(weight: Tensor) -> Iterable[tuple[float, Tensor, Tensor]]:
            if wide:
                pull = torch.bmm(gram, standardised).sub_(standardised * diagonal)
            else:
                pull = torch.bmm(standardised, gram)
            if unbiased:
                pull.sub_(standardised * (lengths - of_itself))
                pull.sub_(pull.mean(-2, keepdim=True))  # as centring does
            radial = (standardised * pull).sum(-2, keepdim=True)
            slope = weight * scale
            yield 4 * factor, pull, slope
            yield -4 * factor, standardised, slope * radial

        return value * factor, gradient


def _apply_forms(energies: Tensor, terms: Terms) -> tuple[tuple[Tensor, ...], tuple[Gradient, ...]]:
    batch = _Batch(energies)
    forms = [getattr(batch, function.__name__)(**options) for function, options in terms]
    values, gradients = zip(*forms, strict=True)
    return values, gradients


def _weighted_sum(gradients: Iterable[Gradient], weights: Iterable[Tensor | None]) -> Any:
    total: Tensor | None = None
    for gradient, weight in zip(gradients, weights, strict=True):
        if weight is not None:
            for number, tensor, factor in gradient(weight):
                if total is None:
                    total = tensor * (factor if number == 1 else number * factor)
                else:
                    total.addcmul_(tensor, factor, value=number)
    return total


class _ClosedForms(Function):
    """The values of several terms; backward returns the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, energies: Tensor, terms: Terms) -> tuple[Tensor, ...]:
        values, ctx.gradients = _apply_forms(energies, terms)
        ctx.set_materialize_grads(False)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        weights = [None if grad is None else grad[:, None, None] for grad in grads]
        return _weighted_sum(ctx.gradients, weights), None


def lse_factors(
    reduction: Reduction, temperature: float, samples: int, units: int
) -> tuple[int, int]:
    """Return factor and divisor of the sum over the samples, or raise ``ValueError``."""
    check_word("reduction", reduction, get_args(Reduction))
    check_number("temperature", temperature, lambda x: x > 0, "finite numbers above 0")
    return units if reduction == "count" else 1, 1 if reduction == "sum" else samples


def pair_factor(unbiased: bool, reduction: PairReduction, samples: int, units: int) -> float:
    """Return the factor of the sum over the pairs, or raise ``ValueError``."""
    if unbiased and samples < 2:
        raise ValueError(f"unbiased=True: needs at least 2 samples, not {samples}")
    check_word("reduction", reduction, get_args(PairReduction))
    factor = samples / (samples - 1) if unbiased else 1.0
    return factor / units if reduction == "mean" else factor


def inverse_lengths(mean: Tensor, squares: Tensor, samples: int, eps: float) -> Tensor:
    """Return 1 over the root of each component's sum of squared deviations, 0 for a constant one.

    Centring leaves an error of a few ``eps |mean|`` in each of the B entries. A component that
    varies less counts as constant.
    """
    rounding = (8 * samples**0.5 * eps * mean).square_()
    return torch.where(squares > rounding, squares, torch.inf).rsqrt_()


def single(tensor: Tensor) -> Tensor:
    """Return a tensor of half precision as float32, of float32 and float64 as it is."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


@takes_stacks
def orthogonality(weight: Tensor) -> Tensor:
    """Weight orthogonality: ``||W W^T - I||_F^2``, 0 for K unit rows at right angles.

    It constrains the parameters, not the activity; every published setting leaves it out.

    Args:
        weight: encoder matrix, shape ``(..., K, D)``.
    """
    gram = weight @ weight.mT
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return (gram - identity).square().sum((-2, -1))


@takes_stacks
def decay(weight: Tensor) -> Tensor:
    """Weight decay, ``||W||_F^2 / 2``: the volume control of the variance then has an end.

    The variance of a unit is at most ``s ||w_j||^2``, with s the largest eigenvalue of the data's
    covariance, if the activation's slope is at most 1. So ``-log Var(E_j) + c ||w_j||^2 / 2`` is at
    least ``1 - log(2 s / c)``, up to the eps of the variance, and the objective is bounded below.
    Without other terms, a row ends at the length ``sqrt(2 / c)``.

    Args:
        weight: encoder matrix, shape ``(..., K, D)``.
    """
    return weight.square().sum((-2, -1)) / 2
