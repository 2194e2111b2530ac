"""TopK: the k largest activations of each sample, and a reconstruction that revives dead units."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_em.base.placement import numbers_like
from implicit_em.base.values import check_whole
from implicit_em.codes import Code, Layer, Pattern, active_units
from implicit_em.models.declarations import Steered
from implicit_em.models.linear import SharedInput
from implicit_em.models.sweeps import Inferred, Swept

WIDE = 48
"""Number of units for each active one from which on a bound speeds up the search."""
UNITS_PER_PROBE = 8
"""One in so many units is probed for this bound."""
SPARE_PROBES = 8
"""Number of probed units that exceed the bound, beside twice the number expected."""
LONG = 6 * 2**20
"""Number of elements of a row from which on a bound speeds up the search."""
STRIDE = 61
"""Step between the elements that give this bound; a prime, so that they belong to different units.
"""


class TopK(Swept):
    """Dictionary with the k largest activations of each sample (Gao et al. 2024, arXiv 2406.04093).

    A unit is dead once none of the last ``dead_after`` samples has activated it; a batch counts as
    a whole. The ``revived`` largest activations of dead units make an auxiliary reconstruction, for
    a loss on the error of the other units. As in the paper, ``b_d`` starts at the geometric median.

    Args:
        in_features: width D of the input.
        hidden: number of hidden units K.
        k: number of active units in a sample; fewer if fewer activations are above 0.
        revived: number of dead units in the auxiliary reconstruction, the paper's k_aux; ``None``
            for half of D.
        dead_after: number of training samples without activity after which a unit is dead.
        kwargs: further arguments of ``Swept``.

    Raises:
        ValueError: if k exceeds ``hidden``, or an option is not a whole number in its range.
    """

    takes_stacks = folds = steps_sparsely = True
    settings: ClassVar[tuple[str, ...]] = ("k",)
    steered = Steered("k")
    provides: ClassVar[tuple[str, ...]] = (*Swept.provides, "auxiliary")
    k: int | list[int]
    silent_samples: Tensor

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        *,
        k: int = 8,
        revived: int | None = None,
        dead_after: int = 64_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, hidden, **kwargs)
        self.k = k
        self.revived = max(1, in_features // 2) if revived is None else revived
        self.dead_after = dead_after
        check_whole("k", k, 1, hidden)
        check_whole("dead_after", dead_after, 1)
        check_whole("revived", revived, 0, or_null=True)
        self.register_buffer("silent_samples", torch.zeros(hidden, dtype=torch.int64))

    def keep(self, proposals: Tensor | Layer, sweep: int, reading: bool) -> Tensor | Code:
        """Return the proposals that a sweep keeps, and 0 for all others."""
        return self.choose(proposals) if isinstance(proposals, Tensor) else self.select(proposals)

    def choose(self, activations: Tensor) -> Tensor:
        """Return the activations ``(..., B, K)`` of a training batch, 0 for units not selected."""
        return keep_largest(activations, self.k)

    def select(self, layer: Layer) -> Tensor | Code:
        """Return the activations of a training batch that are selected."""
        return largest_of(layer, int(self.k))  # type: ignore[arg-type]

    def training_outputs(self, x: Tensor | SharedInput) -> dict[str, Tensor]:
        """Return the tensors of a training step, and count the samples of silent units."""
        return self._with_auxiliary(self.inferred(x))

    def sparse_outputs(self, x: Tensor, most: int) -> dict[str, Tensor | Code]:
        """Return the tensors of a training step; see ``Encoder.sparse_outputs``."""
        return self._with_auxiliary(self.inferred(x, most))

    def _with_auxiliary(self, inferred: Inferred) -> dict[str, Any]:
        activations, proposals = self.coded(inferred), inferred.proposals
        with torch.no_grad():
            active = active_units(activations)
            self.silent_samples.add_(activations.shape[-2]).masked_fill_(active, 0)
            dead = (self.silent_samples >= self.dead_after).unsqueeze(-2)
        outputs = self._outputs(activations)
        # Only on a CPU: elsewhere, asking would make the host wait for the device.
        if dead.device.type == "cpu" and not dead.any():
            like = outputs["reconstruction"]
            auxiliary = like.new_zeros(1).expand_as(like)
        else:
            revived = (
                keep_largest(proposals * dead, self.revived)
                if isinstance(proposals, Tensor)
                else largest_of(proposals, self.revived, dead)
            )
            auxiliary = self.decoder(revived, torch.zeros_like(self.decoder.bias))
        return {**outputs, "auxiliary": auxiliary}


def largest_of(layer: Layer, count: int, units: Tensor | None = None) -> Tensor | Code:
    """Return the ``count`` largest pre-activations of each sample that are above 0.

    Only units in the mask ``(1, K)`` take part, if there is one.
    """
    if layer.x_BD.device.type != "cpu":  # where the host would wait for the device
        return layer.keep_largest(count, units)
    return layer.keep(lambda z: largest_positive(z if units is None else z * units, count))


def keep_largest(activations: Tensor, count: int | Sequence[int]) -> Tensor:
    """Return the ``count`` largest elements of each row, and 0 for every other element.

    A stack ``(R, ..., N)`` may have a count for each replica. Among equal elements the first ones
    are chosen: the choice of ``torch.topk`` may depend on the other rows.
    """
    each = [count] if isinstance(count, int) else list(count)
    if max(each) == 0:
        return torch.zeros_like(activations)
    if min(each) >= activations.shape[-1]:
        return activations
    with torch.no_grad():
        least = _least_kept(activations, each)
        # As integers: half precision has few integers.
        counts = numbers_like(activations, each, torch.int64)
        counts = counts.view(-1, *[1] * (activations.dim() - 1))
        # An element that is 0 stays 0, whether it is kept or not.
        kept = (activations >= least) & (activations != 0)
        # Only on a CPU: elsewhere, asking would make the host wait for the device.
        if kept.device.type != "cpu" or (kept.sum(-1, keepdim=True) > counts).any():
            kept = _first_from(activations, least, counts)
    return activations * kept


def _least_kept(activations: Tensor, each: Sequence[int]) -> Tensor:
    """Return the smallest of the largest elements of each row ``(..., N)``, shape ``(..., 1)``."""
    if min(each) == max(each):
        return smallest_of_largest(activations, each[0])
    if activations.device.type == "cpu":  # where sorting takes longer than more calls
        rows = zip(activations, each, strict=True)
        return torch.stack([smallest_of_largest(row, count) for row, count in rows])
    most = activations.topk(max(each)).values
    return torch.stack([row[..., n - 1 : n] for row, n in zip(most, each, strict=True)])


def smallest_of_largest(values: Tensor, count: int) -> Tensor:
    """Return the smallest of the ``count`` largest elements of each row ``(..., N)``.

    Its shape is ``(..., 1)``.
    """
    on_cpu = values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)
    if not on_cpu or torch.compiler.is_compiling():
        return values.topk(count, sorted=False).values.amin(-1, keepdim=True)
    # On one thread, numpy takes a third of the time of torch. The elements are negated, because
    # numpy is slow at finding the largest where many are 0.
    negated = values.detach().neg()
    negated.numpy().partition(count - 1, axis=-1)
    return negated[..., count - 1 : count].neg()


def largest_positive(z: Tensor, count: int) -> Tensor:
    """Return a mask of the ``count`` largest elements of each row ``(..., N)`` that are above 0.

    Among equal elements the first ones are chosen. ``keep_largest`` takes stacks; this function is
    faster.
    """
    count = min(count, z.shape[-1])
    if count == 0:
        return torch.zeros_like(z, dtype=torch.bool)
    if z.dim() != 2 or z.shape[-1] < WIDE * max(count, 32):
        return _by_search(z, count)
    chosen, left_B = _by_candidates(z, count)
    if left_B.any():
        chosen[left_B] = _by_search(z[left_B], count)
    return chosen


def _by_search(z: Tensor, count: int) -> Tensor:
    """Return the mask of ``largest_positive`` by a search among all elements."""
    least = smallest_of_largest(z, count)
    full = (least > 0).all()
    chosen = z >= least if full else (z >= least) & (z > 0)
    if full and chosen.count_nonzero() == count * least.numel():
        return chosen
    if (chosen.sum(-1) <= count).all():
        return chosen
    return _first_from(z, least, count) & (z > 0)


def lower_bound(values: Tensor, count: int) -> Tensor:
    """Return a number above 0 that at least ``count`` of the values ``(N,)`` exceed, or else 0."""
    some = values[::STRIDE]
    expected = min(len(some), count * 2 // STRIDE + 100)
    bound = smallest_of_largest(some, expected).clamp(min=0)
    return torch.where((values > bound).count_nonzero() >= count, bound, 0)


def _by_candidates(z: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mask of ``largest_positive`` by a search among few candidates of each row.

    A part of each row gives a bound that more than ``count`` elements of the row should exceed. A
    second mask ``(B,)`` marks the rows of which fewer do, or of which equal elements would be too
    many: they are not searched.
    """
    samples, units = z.shape
    probes = 2 * count // UNITS_PER_PROBE + SPARE_PROBES
    bound_B1 = smallest_of_largest(z[:, : units // UNITS_PER_PROBE], probes).clamp_(min=0)
    found = Pattern.where(z > bound_B1)
    values_N = z.view(-1).index_select(0, found.flat_N)
    most = max(count, int(found.counts.max()))
    place_N = torch.arange(len(values_N), device=z.device) - found.starts[found.row_N]
    candidates = z.new_zeros(samples, most)
    candidates[found.row_N, place_N] = values_N
    least_B = smallest_of_largest(candidates, count)[:, 0]
    chosen_N = values_N >= least_B[found.row_N]
    left_B = (found.counts < count) & (bound_B1[:, 0] > 0)
    left_B |= found.sum_rows(chosen_N) > count
    chosen = torch.zeros_like(z, dtype=torch.bool)
    chosen.view(-1)[found.flat_N[chosen_N]] = True
    return chosen, left_B


def _first_from(values: Tensor, least: Tensor, counts: Tensor | int) -> Tensor:
    """Return a mask of ``counts`` elements: all above ``least``, and the first equal to it."""
    above = values > least
    equal = values == least
    return above | (equal & (equal.cumsum(-1) <= counts - above.sum(-1, keepdim=True)))
