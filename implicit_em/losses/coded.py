"""The terms of the derived objective, and their gradients, through the entries of a code.

``losses.derived`` describes the terms. Energies are 0 outside of the entries, and ReLU passes no
gradient there, so energies are never dense. Decorrelation costs the entries times the smaller of B
and K; the other terms cost the entries. Sums over samples and units are in float64.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from implicit_em.codes import Code, Pattern
from implicit_em.losses import derived

AT_A_TIME = 2**25
"""Number of standardised energies that are in memory at a time."""


def value_and_gradient(
    energies: Code, terms: derived.Terms, weights: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Return the unweighted terms, shape ``(1,)``, and the gradient of their weighted sum.

    The gradient is with respect to the code's values, shape ``(N,)``. Each weight has one element.
    """
    batch = _Batch(Code(energies.values_N.detach(), energies.pattern))
    values, total = [], torch.zeros_like(batch.values_N)
    for (function, options), weight in zip(terms, weights, strict=True):
        value, gradient_N = getattr(batch, function.__name__)(**options)
        values.append(value.to(total.dtype).view(1))
        total.addcmul_(gradient_N, weight.view(1))
    return values, total


class _Batch:
    """A code, with the statistics that several terms need."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.values_N = code.values_N
        self.pattern = code.pattern
        self.size, self.units = code.shape

    @cached_property
    def mean_K(self) -> Tensor:
        return self.pattern.sum_columns(self.values_N) / self.size

    @cached_property
    def centred_N(self) -> Tensor:
        """The entries less the mean of their units."""
        mean_K = self.mean_K.to(self.values_N.dtype)
        return self.values_N - mean_K[self.pattern.column_N]

    @cached_property
    def squares_K(self) -> Tensor:
        """Sum over all samples of the squared distances from the mean."""
        silent_K = self.size - self.pattern.transposed.counts
        return self.pattern.sum_columns(self.centred_N.square()) + silent_K * self.mean_K.square()

    def lse(
        self, reduction: derived.Reduction = "sum", temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """``-t log sum_j exp(-E_j / t)``: each unit without an entry adds ``exp(0)``."""
        factor, divisor = derived.lse_factors(reduction, temperature, self.size, self.units)
        pattern, values_N = self.pattern, self.values_N
        zeros_B = self.units - pattern.counts
        lowest_B = torch.where(zeros_B > 0, 0.0, torch.inf).to(values_N.dtype)
        lowest_B = lowest_B.scatter_reduce(0, pattern.row_N, values_N, "amin")
        likelihoods_N = ((lowest_B[pattern.row_N] - values_N) / temperature).exp_()
        of_zeros_B = zeros_B * (lowest_B / temperature).clamp(max=0).exp()  # 0 where there are none
        evidence_B = pattern.sum_rows(likelihoods_N) + of_zeros_B
        value = (lowest_B - temperature * evidence_B.log()).sum()
        responsibilities_N = likelihoods_N.div_(evidence_B.to(values_N.dtype)[pattern.row_N])
        return value * factor / divisor, responsibilities_N.mul_(factor / divisor)

    def variance(self, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
        """``-sum_j log(Var_j + eps)``."""
        freedom = self.size - 1
        floored_K = self.squares_K / freedom + eps
        slope_K = (-2 / freedom / floored_K).to(self.values_N.dtype)
        return -floored_K.log().sum(), self.centred_N * slope_K[self.pattern.column_N]

    def decorrelation(
        self, unbiased: bool = False, reduction: derived.PairReduction = "sum"
    ) -> tuple[Tensor, Tensor]:
        """``||C - diag C||_F^2`` of ``C = Z^T Z``, Z the standardised energies; see ``derived``.

        A standardised energy is ``z_bj = t_bj - level_j``, where t is 0 outside of the entries. So
        sums over samples are sums over entries and a constant. A unit that is active in more than
        half of the samples would lose precision in this difference. It gets an entry for each
        sample, and the level 0.
        """
        factor = derived.pair_factor(unbiased, reduction, self.size, self.units)
        dtype = self.values_N.dtype
        pattern, values_N, own_N = self._filled()
        unit_N, size = pattern.column_N, self.size
        silent_K = size - pattern.transposed.counts
        mean_K, squares_K = self.mean_K, self.squares_K
        scale_K = derived.inverse_lengths(mean_K, squares_K, size, torch.finfo(dtype).eps)
        level_K = torch.where(silent_K > 0, scale_K * mean_K, 0.0)
        z_N = (values_N - mean_K.to(dtype)[unit_N]) * scale_K.to(dtype)[unit_N]
        t_N = z_N + level_K.to(dtype)[unit_N]

        wide = self.units > size
        value, pull_N = _gram(Code(t_N, pattern), level_K.to(dtype), wide)
        if wide:
            diagonal_K = scale_K.square() * squares_K
            value = value - diagonal_K.square().sum()
            pull_N -= z_N * diagonal_K.to(dtype)[unit_N]
        radial_K = pattern.sum_columns(t_N * pull_N)
        if unbiased:
            of_itself_N, floor_K = z_N.square(), level_K.square()
            above_N = of_itself_N - floor_K.to(dtype)[unit_N]
            length_B = pattern.sum_rows(above_N) + floor_K.sum()
            fourth_K = pattern.sum_columns(of_itself_N.square()) + silent_K * floor_K.square()
            value = value - length_B.square().sum() + fourth_K.sum()
            length_N = length_B.to(dtype)[pattern.row_N]
            of_lengths_K = pattern.sum_columns(above_N * length_N) + floor_K * length_B.sum()
            radial_K += fourth_K - of_lengths_K
            pulls_K = (
                pattern.sum_columns(z_N * of_itself_N - t_N * length_N)
                - silent_K * level_K * floor_K
                + level_K * length_B.sum()
            )
            pull_N -= z_N * (length_N - of_itself_N)
            # The gradient passes through the centring, too.
            pull_N -= (pulls_K / size).to(dtype)[unit_N]
        slope_K = (4 * factor * scale_K).to(dtype)
        gradient_N = slope_K[unit_N] * (pull_N - z_N * radial_K.to(dtype)[unit_N])
        return value * factor, gradient_N if own_N is None else gradient_N[own_N]

    def _filled(self) -> tuple[Pattern, Tensor, Tensor | None]:
        """Give an entry for each sample to units that are active in more than half of the samples.

        Returns the pattern, its values, and the places of the old entries in it; the last is
        ``None`` if nothing was added.
        """
        pattern, counts_K = self.pattern, self.pattern.transposed.counts
        filled_K = (2 * counts_K > self.size) & (counts_K < self.size)
        if not filled_K.any():
            return pattern, self.values_N, None
        all_samples = torch.arange(self.size, device=filled_K.device).unsqueeze(-1) * self.units
        added = (all_samples + filled_K.nonzero().mT).flatten()
        others = pattern.flat_N[~filled_K[pattern.column_N]]
        filled = Pattern.of_flat(pattern.shape, torch.cat([others, added]).sort().values)
        own_N = torch.searchsorted(filled.flat_N, pattern.flat_N)
        values_N = self.values_N.new_zeros(len(filled.row_N)).index_copy_(0, own_N, self.values_N)
        return filled, values_N, own_N


def _gram(t: Code, level_K: Tensor, wide: bool) -> tuple[Tensor, Tensor]:
    """Return ``||G||_F^2`` of a Gram matrix, and ``Z G`` or ``G Z`` at the entries of t.

    G is ``Z Z^T``, shape ``(B, B)``, or ``Z^T Z`` without its diagonal, shape ``(K, K)``. In
    ``Z^T Z``, t may replace one factor, because each unit has the mean 0. In ``Z Z^T``, the product
    of the levels and Z is subtracted.
    """
    order_N = None if wide else t.pattern.order_N
    rows = t.pattern if order_N is None else t.pattern.transposed
    values_N = t.values_N if order_N is None else t.values_N[order_N]
    value = torch.zeros((), dtype=torch.float64, device=values_N.device)
    pull_N = torch.zeros_like(values_N)
    block = max(1, AT_A_TIME // rows.shape[1])
    size = rows.shape[0]
    # One block has all entries: the host need not ask the device where blocks begin.
    starts = rows.starts.tolist() if block < size else [0, *[len(values_N)] * size]
    for first in range(0, size, block):
        last = min(first + block, size)
        own = slice(starts[first], starts[last])
        z = values_N.new_zeros(rows.shape[1], last - first)
        z[rows.column_N[own], rows.row_N[own] - first] = values_N[own]
        z -= level_K.unsqueeze(-1) if wide else level_K[first:last]
        gram = rows.times(values_N, z)
        if wide:
            gram -= level_K @ z
        else:
            gram[first:last].fill_diagonal_(0)
        value += gram.square().sum()
        pull_N += rows.products(z, gram)
    if order_N is not None:
        pull_N = torch.zeros_like(pull_N).index_copy_(0, order_N, pull_N)
    return value, pull_N
