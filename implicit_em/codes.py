"""The code of a batch: the entries of its activations that need not be 0.

A layer of K units of which few are active makes matrices ``(B, K)`` that are nearly empty. A
``Code`` holds their entries alone. The cost of its products grows with the number of entries. A
product is weighted sums of table rows, which ``torch.nn.functional.embedding_bag`` computes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, pad

AT_A_TIME = 2**25
"""Largest number of pre-activations that are computed at a time."""
LEAST_UNITS = 1024
"""Smallest number of units of a layer for which sparse products pay."""
Choice = Callable[[Tensor], Tensor]
"""Function from pre-activations to a mask of the pre-activations that take part."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """Positions of entries in a matrix of ``rows`` times ``columns``, one row after another.

    Args:
        shape: numbers of rows and columns.
        row_N: row of each entry, int64, in ascending order.
        column_N: column of each entry, int64, in ascending order within a row.
    """

    shape: tuple[int, int]
    row_N: Tensor
    column_N: Tensor

    @classmethod
    def where(cls, mask: Tensor) -> "Pattern":
        """Return the positions at which a mask ``(rows, columns)`` is true."""
        rows, columns = mask.shape
        return cls.of_flat((rows, columns), positions(mask))

    @classmethod
    def of_flat(cls, shape: tuple[int, int], flat_N: Tensor) -> "Pattern":
        """Return the pattern of ascending positions in a flattened matrix."""
        row_N = flat_N.div(shape[1], rounding_mode="floor")
        return cls(shape, row_N, flat_N - row_N * shape[1])

    @cached_property
    def flat_N(self) -> Tensor:
        """Position of each entry in the flattened matrix."""
        return self.row_N * self.shape[1] + self.column_N

    @cached_property
    def counts(self) -> Tensor:
        """Number of entries in each row."""
        if self.row_N.device.type == "cpu":
            return torch.bincount(self.row_N, minlength=self.shape[0])
        ones_N = torch.ones_like(self.row_N)  # elsewhere, ``bincount`` makes the host wait
        return ones_N.new_zeros(self.shape[0]).index_add_(0, self.row_N, ones_N)

    @cached_property
    def starts(self) -> Tensor:
        """Index of each row's first entry, then the number of all entries."""
        return pad(self.counts.cumsum(0), (1, 0))

    @cached_property
    def order_N(self) -> Tensor:
        """Indices of the entries, sorted by column and then by row."""
        return self.column_N.argsort(stable=True)

    @cached_property
    def transposed(self) -> "Pattern":
        """Pattern of the transposed matrix, with the entries of this pattern in ``order_N``."""
        order_N = self.order_N
        return Pattern(self.shape[::-1], self.column_N[order_N], self.row_N[order_N])

    def sum_columns(self, values_N: Tensor) -> Tensor:
        """Return the sum of the entries of each column, in float64."""
        return _sums(values_N, self.column_N, self.shape[1])

    def sum_rows(self, values_N: Tensor) -> Tensor:
        """Return the sum of the entries of each row, in float64."""
        return _sums(values_N, self.row_N, self.shape[0])

    def times(self, values_N: Tensor, table: Tensor) -> Tensor:
        """Return the product ``(rows, D)`` of the matrix with entries ``values_N`` and a table."""
        return embedding_bag(
            self.column_N,
            table,
            self.starts,
            mode="sum",
            per_sample_weights=values_N,
            include_last_offset=True,
        )

    def products(self, table: Tensor, x: Tensor) -> Tensor:
        """Return ``x_row . table_column`` of each entry, of ``x`` ``(rows, D)``, shape ``(N,)``.

        It is the gradient of ``times`` by its values, where x is the product's gradient.
        """
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            x.contiguous(), table, self.column_N, self.starts, self.row_N, 0
        )


def _sums(values_N: Tensor, places_N: Tensor, size: int) -> Tensor:
    sums = values_N.new_zeros(size, dtype=torch.float64)
    return sums.index_add_(0, places_N, values_N.double())


def positions(mask: Tensor) -> Tensor:
    """Return the flat positions at which a mask is true, int64."""
    if mask.device.type == "cpu":  # numpy is ten times as fast if half of the mask is true
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.reshape(-1).nonzero().squeeze(-1)


@dataclass(frozen=True, eq=False)
class Code:
    """Matrix ``(B, K)`` that is 0 outside of its entries; gradients go through the entries alone.

    It has the few operations of a tensor that loss terms need. ``mean`` and ``sum`` return the
    leading dimension of a stack of one.

    Args:
        values_N: value of each entry.
        pattern: positions of the entries.
    """

    values_N: Tensor
    pattern: Pattern

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples, and number of units."""
        return self.pattern.shape

    def map(self, function: Callable[..., Any], *by_unit: Tensor) -> Any:
        """Apply a function to the entries, and return a code or a tuple of codes.

        The function also gets, of each tensor ``(K,)`` in ``by_unit``, the number of each entry's
        unit.
        """
        units_N = self.pattern.column_N
        own = [numbers.reshape(-1).index_select(0, units_N) for numbers in by_unit]
        found = function(self.values_N, *own)
        if isinstance(found, tuple):
            return tuple(Code(values_N, self.pattern) for values_N in found)
        return Code(found, self.pattern)

    def detach(self) -> "Code":
        """Return the same values without their graph."""
        return self.map(torch.detach)

    def abs(self) -> "Code":
        """Return the absolute values."""
        return self.map(torch.abs)

    def __mul__(self, by_unit: Tensor) -> "Code":
        """Multiply each unit by its own number."""
        return self.map(torch.mul, by_unit)

    def mean(self, dims: tuple[int, int]) -> Tensor:
        """Return the mean over all of ``(B, K)``, shape ``(1,)``."""
        if dims != (-2, -1):
            raise ValueError(f"mean({dims}): a code has the mean over (-2, -1) alone")
        samples, units = self.shape
        return self.values_N.sum().view(1) / (samples * units)

    def sum(self, dim: int) -> Tensor:
        """Return the sum over the units of each sample, shape ``(1, B)``."""
        if dim != -1:
            raise ValueError(f"sum({dim}): a code has the sum over -1 alone")
        zeros = self.values_N.new_zeros(1, self.shape[0])
        return zeros.index_add(1, self.pattern.row_N, self.values_N.unsqueeze(0))

    def __matmul__(self, table: Tensor) -> Tensor:
        """Return the product with a table ``(K, D)``, shape ``(B, D)``."""
        return _Product.apply(self.values_N, table, self.pattern)

    def at(self, pattern: Pattern) -> "Code":
        """Return the code of the same values at another pattern, and of 0 where it has none."""
        if not len(self.values_N):
            return Code(self.values_N.new_zeros(len(pattern.row_N)), pattern)
        own_N = self.pattern.flat_N
        place_N = torch.searchsorted(own_N, pattern.flat_N).clamp(max=len(own_N) - 1)
        there_N = own_N.index_select(0, place_N) == pattern.flat_N
        return Code(self.values_N.index_select(0, place_N).where(there_N, 0), pattern)

    def dense(self) -> Tensor:
        """Return the matrix as a tensor."""
        samples, units = self.shape
        flat = self.values_N.new_zeros(samples * units)
        return flat.index_copy(0, self.pattern.flat_N, self.values_N).view(samples, units)


class _Product(Function):
    """Code times table; all gradients go through the entries."""

    @staticmethod
    def forward(ctx: Any, values_N: Tensor, table: Tensor, pattern: Pattern) -> Tensor:
        table = table.contiguous()
        ctx.pattern = pattern
        ctx.save_for_backward(values_N, table)
        return pattern.times(values_N, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values_N, table = ctx.saved_tensors
        grad, pattern = grad.contiguous(), ctx.pattern
        of_values = pattern.products(table, grad) if ctx.needs_input_grad[0] else None
        of_table = None
        if ctx.needs_input_grad[1]:
            of_table = pattern.transposed.times(values_N[pattern.order_N], grad)
        return of_values, of_table, None


def matches(table: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """Return ``Pattern.products``, shape ``(N,)``, with a graph."""
    return _Products.apply(table, x, pattern)


class _Products(Function):
    """Products of samples and table rows at entries; all gradients go through the entries."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
        table = table.contiguous()
        ctx.pattern = pattern
        ctx.save_for_backward(table, x)
        return pattern.products(table, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, x = ctx.saved_tensors
        pattern = ctx.pattern
        of_table = of_x = None
        if ctx.needs_input_grad[0]:
            of_table = pattern.transposed.times(grad[pattern.order_N], x)
        if ctx.needs_input_grad[1]:
            of_x = pattern.times(grad, table)
        return of_table, of_x, None


class _AffineAt(Function):
    """``z = W (x - origin) + b``, already computed, at the entries of a pattern, or everywhere."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, origin: Any, z: Tensor, x: Tensor, pattern: Any
    ) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(weight, origin, x)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, origin, x = ctx.saved_tensors
        moved = x if origin is None else x - origin
        if ctx.pattern is None:
            of_weight, of_bias = grad.mT @ moved, grad.sum(0)
        else:
            of_weight = ctx.pattern.transposed.times(grad[ctx.pattern.order_N], moved)
            of_bias = ctx.pattern.sum_columns(grad).to(grad.dtype)
        of_origin = None if origin is None else -(of_bias @ weight)
        return of_weight, of_bias, of_origin, None, None, None


_memory: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()
"""Memory for a layer's pre-activations, because the first write to fresh memory is slow."""


def memory_of(linear: Any, samples: int) -> Tensor:
    """Return memory for pre-activations ``(B, K)``; the layer's next call overwrites them."""
    weight, size = linear.weight, samples * len(linear.weight)
    memory, kind = _memory.get(linear), (weight.dtype, weight.device)
    if memory is None or len(memory) < size or (memory.dtype, memory.device) != kind:
        with torch.inference_mode(False):  # a later step may use it, too
            memory = _memory[linear] = weight.new_empty(size)
    return memory[:size].view(samples, len(weight))


@dataclass(frozen=True, eq=False)
class Layer:
    """Pre-activations ``W (x - origin) + b`` of a linear layer, of which some will take part.

    They are computed without a graph, so that a model sees all of them before it chooses. ``keep``
    returns the chosen ones, with a graph. The pre-activations of a wide layer are computed for
    some samples at a time, and are in memory for all samples only if the result is dense.

    Args:
        linear: the ``torch.nn.Linear`` with W, shape ``(K, D)``, and b.
        x_BD: inputs.
        most: largest number of entries for which a code is worth while.
        origin: what is subtracted from the inputs, shape ``(D,)``; ``None`` for nothing.
    """

    linear: Any
    x_BD: Tensor
    most: int
    origin: Tensor | None = None

    @cached_property
    def z_BK(self) -> Tensor:
        """The pre-activations of all samples."""
        return self._of(slice(0, len(self.x_BD)))

    @torch.no_grad()
    def _of(self, samples: slice) -> Tensor:
        """Return the pre-activations of some samples."""
        linear, x_BD = self.linear, self.x_BD[samples]
        moved = x_BD if self.origin is None else x_BD - self.origin
        out = memory_of(linear, len(x_BD))
        return torch.addmm(linear.bias, moved, linear.weight.mT, out=out)

    def _parts(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of a first sample, and the pre-activations of some samples from it on."""
        rows = max(1, AT_A_TIME // len(self.linear.weight))
        if rows >= len(self.x_BD):
            yield 0, self.z_BK
            return
        for first in range(0, len(self.x_BD), rows):
            yield first, self._of(slice(first, min(first + rows, len(self.x_BD))))

    def keep(self, choose: Choice, among: Choice | None = None) -> Tensor | Code:
        """Return the pre-activations that are chosen, and 0 for all others.

        Gradients go through the chosen ones. The result is a tensor if more than ``most`` are
        chosen. A unit whose pre-activation of the first sample is NaN is kept there, so that the
        run notices it: then its weights are not finite.

        Args:
            choose: function that returns a mask of the pre-activations ``(B', K)`` of some samples.
            among: function that chooses again among all chosen values ``(N,)``; needed if the
                choice in one sample depends on other samples.
        """
        samples, units = len(self.x_BD), len(self.linear.weight)
        flat_N = values_N = self.x_BD.new_zeros(0)
        for first, z in self._parts():
            chosen = _noticing(choose, z)
            on_cpu = chosen.device.type == "cpu"  # elsewhere, the count is one wait more
            if on_cpu and among is None and len(values_N) + int(chosen.count_nonzero()) > self.most:
                return self._dense(choose)
            found_N = positions(chosen)
            values = z.view(-1).index_select(0, found_N)
            if first == 0:
                flat_N, values_N = found_N, values
                continue
            flat_N = torch.cat([flat_N, found_N.add_(first * units)])
            values_N = torch.cat([values_N, values])
            if among is not None:
                left = among(values_N)
                flat_N, values_N = flat_N[left], values_N[left]
        if len(values_N) > self.most:
            return self._dense(choose)
        pattern = Pattern.of_flat((samples, units), flat_N)
        return Code(self._attach(values_N, pattern), pattern)

    def keep_largest(
        self, count: int, units: Tensor | None = None, of_all: bool = False
    ) -> Tensor | Code:
        """Return the largest pre-activations, and 0 for all others, without waiting for a device.

        A code has ``count`` entries. Pre-activations that are not above 0 become entries of value
        0, through which no gradient goes. Among equal ones, ``torch.topk`` chooses.

        Args:
            count: number that each sample keeps, or the batch.
            units: mask ``(1, K)`` of the units that take part; ``None`` for all.
            of_all: whether the batch keeps ``count`` of all, and not of each sample.
        """
        samples, width = len(self.x_BD), len(self.linear.weight)
        values, places = [], []
        for first, z in self._parts():
            rows = z if units is None else z * units
            rows = rows.reshape(1, -1) if of_all else rows
            found = rows.topk(min(count, rows.shape[-1]), sorted=False)
            starts = torch.arange(len(rows), device=z.device).unsqueeze(-1) * width
            values.append(found.values.flatten())
            places.append((found.indices + (starts + first * width)).flatten())
        values_N, flat_N = torch.cat(values), torch.cat(places)
        if of_all and len(values_N) > count:
            values_N, left_N = values_N.topk(count, sorted=False)
            flat_N = flat_N[left_N]
        taken_N = ~(values_N <= 0)  # NaN too, so that the run notices it
        if len(values_N) > self.most:
            flat = torch.zeros_like(self.z_BK, dtype=torch.bool).view(-1)
            mask_BK = flat.index_copy_(0, flat_N, taken_N).view_as(self.z_BK)
            return self._attach(self.z_BK, None).where(mask_BK, 0)
        flat_N, order_N = flat_N.sort()
        pattern = Pattern.of_flat((samples, width), flat_N)
        kept_N = self._attach(values_N[order_N], pattern)
        return Code(kept_N.where(taken_N[order_N], 0), pattern)

    def _dense(self, choose: Choice) -> Tensor:
        return self._attach(self.z_BK, None).where(_noticing(choose, self.z_BK), 0)

    def _attach(self, z: Tensor, pattern: Pattern | None) -> Tensor:
        linear = self.linear
        return _AffineAt.apply(linear.weight, linear.bias, self.origin, z, self.x_BD, pattern)


def _noticing(choose: Choice, z: Tensor) -> Tensor:
    """Return the mask of a choice, with the NaN of the first sample."""
    chosen = choose(z)
    chosen[:1] |= z[:1].isnan()
    return chosen


def positive(z: Tensor) -> Tensor:
    """Return a mask of the elements above 0."""
    return z > 0


def active_units(activations: Tensor | Code) -> Tensor:
    """Return which units ``(..., K)`` of ``(..., B, K)`` are above 0 on at least one sample."""
    if isinstance(activations, Tensor):
        return (activations > 0).any(-2)
    active_N, units = activations.values_N > 0, activations.shape[1]
    place_N = activations.pattern.column_N.where(active_N, units)  # one beyond the last unit
    return active_N.new_zeros(units + 1).index_fill_(0, place_N, True)[:units]


def smallest_positive(activations: Tensor | Code) -> Tensor:
    """Return the smallest activation above 0 of a batch, ``(..., 1)``; inf if there is none."""
    if isinstance(activations, Code):
        activations = pad(activations.values_N.unsqueeze(0), (0, 1))  # a minimum needs an element
    return activations.where(activations > 0, torch.inf).flatten(-2).amin(-1, keepdim=True)


def at_units(function: Callable[..., Any], activations: Tensor | Code, *by_unit: Tensor) -> Any:
    """Apply an elementwise function to activations and to the numbers ``(K,)`` of their units."""
    if isinstance(activations, Code):
        return activations.map(function, *by_unit)
    return function(activations, *(numbers.unsqueeze(-2) for numbers in by_unit))
