"""The linear layer of the models: one, or a stack of them with one batched product."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class SharedInput:
    """Inputs of a stack of replicas, of which neighbours may see the same batch.

    Args:
        batches: each of shape ``(B, D)``.
        counts: of the neighbouring replicas that see each batch; R in all.

    """

    batches: Sequence[Tensor]
    counts: Sequence[int]

    def expanded(self) -> Tensor:
        """Return each replica's own batch, shape ``(R, B, D)``; a view where all share one."""
        if len(self.batches) == 1:
            return self.batches[0].expand(self.counts[0], -1, -1)
        return torch.cat(
            [x.expand(n, -1, -1) for x, n in zip(self.batches, self.counts, strict=True)]
        )


class Linear(nn.Linear):
    """``torch.nn.Linear``, whose parameters may have a leading dimension: a stack of R layers.

    A stack takes a ``SharedInput``, or inputs ``(R, B, D)`` of the replicas' own, and gives each
    replica bit for bit what a stack of one gives it on a CPU with one thread.
    """

    def forward(self, x: Any) -> Tensor:
        """Return ``x W^T + b``, of shape ``(..., K)``; ``(R, B, K)`` for a stack."""
        if self.weight.dim() == 2:
            return super().forward(x)
        bias = self.weight.new_zeros(self.weight.shape[:-1]) if self.bias is None else self.bias
        dtype = self.weight.dtype
        device = self.weight.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        if isinstance(x, SharedInput):
            return _Affine.apply(self.weight, bias, dtype, x.counts, *x.batches)
        return _Affine.apply(self.weight, bias, dtype, None, x)


class _Affine(Function):
    """``x W^T + b`` for a stack; autograd's own would give the weight a transposed gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        dtype: torch.dtype,
        counts: Sequence[int] | None,
        *inputs: Tensor,
    ) -> Tensor:
        ctx.counts, ctx.dtype = counts, weight.dtype
        if weight.dtype != dtype:
            weight, bias = weight.to(dtype), bias.to(dtype)
            inputs = tuple(x.to(dtype) for x in inputs)
        ctx.save_for_backward(weight, *inputs)
        bias = bias.unsqueeze(-2)
        if counts is None:
            return torch.baddbmm(bias, inputs[0], weight.mT)
        if len(counts) == 1:
            return torch.baddbmm(bias, inputs[0].expand(counts[0], -1, -1), weight.mT)
        z = weight.new_empty(len(weight), len(inputs[0]), weight.shape[-2])
        for some, x in _runs(counts, inputs):
            torch.baddbmm(bias[some], x, weight[some].mT, out=z[some])
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        own: Tensor | None = None
        if ctx.counts is None:
            slope = torch.bmm(grad.mT, inputs[0])
            own = torch.bmm(grad, weight) if ctx.needs_input_grad[4] else None
        elif len(ctx.counts) == 1:
            slope = torch.bmm(grad.mT, inputs[0].expand(len(weight), -1, -1))
        else:
            slope = torch.empty_like(weight)
            for some, x in _runs(ctx.counts, inputs):
                torch.bmm(grad[some].mT, x, out=slope[some])
        rest = [None] * (len(inputs) - 1)
        return slope.to(ctx.dtype), grad.sum(-2).to(ctx.dtype), None, None, own, *rest


def _runs(counts: Sequence[int], batches: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Give the slice of replicas that sees each batch, and the batch once for each of them."""
    start = 0
    for count, batch in zip(counts, batches, strict=True):
        yield slice(start, start + count), batch.expand(count, -1, -1)
        start += count
