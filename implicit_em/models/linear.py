"""The linear layer of the models: one layer, or a stack of layers with one batched product."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from implicit_em.base.placement import autocasts, full_precision
from implicit_em.codes import Code


@dataclass(frozen=True)
class SharedInput:
    """Inputs of a stack: S batches ``(S, B, D)``, each for ``counts`` neighbouring replicas."""

    batches: Tensor
    counts: Sequence[int]

    def expanded(self) -> Tensor:
        """Return each replica's own batch, shape ``(R, B, D)``; a view where all share one."""
        runs = [x for _, x in self.runs()]
        return runs[0] if len(runs) == 1 else torch.cat(runs)

    def runs(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield as few slices of replicas as possible, each with its batches ``(R', B, D)``."""
        if max(self.counts) == 1:
            yield slice(None), self.batches
            return
        start = 0
        for count, batch in zip(self.counts, self.batches, strict=True):
            yield slice(start, start + count), batch.expand(count, -1, -1)
            start += count


class Linear(nn.Linear):
    """``torch.nn.Linear`` whose parameters may have a leading dimension: a stack of R layers.

    A stack takes a ``SharedInput``, or inputs ``(R, B, D)`` with a batch for each replica. On a CPU
    with one thread it gives each replica the bits that a stack of one gives it.
    """

    takes_stacks = takes_parts = True

    def forward(self, x: Any, bias: Tensor | None = None, origin: Tensor | None = None) -> Tensor:
        """Return ``(x - origin) W^T + b``, shape ``(..., K)``; a ``bias`` replaces the layer's own.

        The inputs may also be a ``Code``. The origin ``(..., D)`` is 0 by default.
        """
        own: Tensor | None = self.bias
        bias = own if bias is None else bias
        if isinstance(x, Code) or self.weight.dim() == 2:
            return self._alone(x, bias, origin)
        if bias is None:
            bias = self.weight.new_zeros(self.weight.shape[:-1])
        dtype = self.weight.dtype
        if autocasts(self.weight):
            dtype = torch.get_autocast_dtype(self.weight.device.type)
        if not isinstance(x, SharedInput):
            x = SharedInput(x, [1] * len(x))
        return _Affine.apply(self.weight, bias, origin, x.batches, x.counts, dtype)

    def _alone(self, x: Tensor | Code, bias: Tensor | None, origin: Tensor | None) -> Tensor:
        if origin is not None:
            # Not a matrix product, which autocast would compute with fewer bits.
            shift = (self.weight * origin).sum(-1)
            bias = -shift if bias is None else bias - shift
        if isinstance(x, Code):
            product = x @ self.weight.mT
            return product if bias is None else product + bias
        return nn.functional.linear(in_dtype_of(self.weight, x), self.weight, bias)


class TiedLinear(nn.Module):
    """Decoder of activations ``(..., K)`` whose matrix is the transposed matrix of an encoder.

    Args:
        linear: the encoder's layer, of weight ``(K, D)``.
    """

    takes_stacks = takes_parts = True

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self._encoder = (linear,)  # in a tuple, so that its parameters are registered once
        self.bias = nn.Parameter(linear.weight.new_zeros(linear.weight.shape[-1]))

    @property
    def weight(self) -> Tensor:
        """The matrix, shape ``(D, K)``: a view of the encoder's matrix."""
        return self._encoder[0].weight.mT

    def forward(self, activations: Any, bias: Tensor | None = None) -> Tensor:
        """Return ``a W + b``, shape ``(..., D)``; a ``bias`` replaces the layer's own.

        The activations may also be a ``Code``.
        """
        rows = self._encoder[0].weight
        if not isinstance(activations, Code):
            activations = in_dtype_of(rows, activations)
        bias = self.bias if bias is None else bias
        return activations @ rows + (bias if bias.dim() == 1 else bias.unsqueeze(-2))

    def untied(self) -> Linear:
        """Return an ordinary layer with the same weight and bias."""
        width, units = self.weight.shape
        layer = Linear(units, width, device="meta")  # where no random numbers are drawn
        weight = self.weight.clone(memory_format=torch.contiguous_format)
        layer.load_state_dict({"weight": weight, "bias": self.bias}, assign=True)
        return layer


def freeze(layer: Any) -> None:
    """Make the weight of a layer a buffer under the same name: no optimizer moves it."""
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)


def in_dtype_of(weight: Tensor, x: Tensor) -> Tensor:
    """Return inputs in the dtype of a weight, or raise what ``floating`` raises."""
    return floating(x).to(weight.dtype)


def floating(x: Tensor) -> Tensor:
    """Return inputs, or raise ``TypeError`` for integers, whose scale is unknown."""
    if not x.is_floating_point():
        raise TypeError(f"inputs of {x.dtype}: must be floating point, scaled as in training")
    return x


class _Affine(Function):
    """``(x - o) W^T + b`` for a stack; autograd's own would give the weight a transposed gradient.

    Replicas share their batches, so the origin o is not subtracted from the batches. Instead,
    ``W o`` is subtracted from the bias, and ``g o^T`` from the gradient of W; g is the gradient of
    the bias.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        origin: Tensor | None,
        batches: Tensor,
        counts: Any,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.counts, ctx.dtype = counts, weight.dtype
        bias = bias.unsqueeze(-2)
        if origin is not None:
            # In this order of the factors, a product rounds alike in a stack of any size.
            with full_precision(weight):
                bias = bias - origin.unsqueeze(-2) @ weight.mT
            origin = origin.to(dtype)
        weight, bias, batches = weight.to(dtype), bias.to(dtype), batches.to(dtype)
        ctx.save_for_backward(weight, origin, batches)
        z = weight.new_empty(len(weight), batches.shape[-2], weight.shape[-2])
        for some, x in SharedInput(batches, counts).runs():
            torch.baddbmm(bias[some], x, weight[some].mT, out=z[some])
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, origin, batches = ctx.saved_tensors
        of_bias = grad.sum(-2)
        slope, of_origin = torch.empty_like(weight), None
        if origin is not None:
            minus = -of_bias
            torch.mul(minus.unsqueeze(-1), origin.unsqueeze(-2), out=slope)
            of_origin = (minus.unsqueeze(-2) @ weight).squeeze(-2).to(ctx.dtype)
        for some, x in SharedInput(batches, ctx.counts).runs():
            slope[some].baddbmm_(grad[some].mT, x, beta=0 if origin is None else 1)
        # Only activations need a gradient, and replicas do not share activations.
        inputs = torch.bmm(grad, weight) if ctx.needs_input_grad[3] else None
        return slope.to(ctx.dtype), of_bias.to(ctx.dtype), of_origin, inputs, None, None
