"""JumpReLU: a threshold for each unit, trained through its jump."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from implicit_em.base.placement import numbers_like
from implicit_em.base.values import check_number
from implicit_em.codes import Code, at_units
from implicit_em.models.declarations import Steered
from implicit_em.models.dictionary import Dictionary
from implicit_em.models.linear import SharedInput


class JumpReLU(Dictionary):
    """Dictionary with ``a = z H(z - theta)`` (Rajamanoharan et al. 2024, arXiv 2407.14435).

    A rectangle of width ``bandwidth`` around the jump gives a gradient to the thresholds, and to
    the number of active units, which a loss draws towards k. The paper's 0.001 for both threshold
    and bandwidth is for inputs of mean squared length 1 and large batches. The defaults are for
    batches of 128 images of MNIST, where few activations fall into a narrow rectangle.

    Args:
        in_features: width D of the input.
        hidden: number of hidden units K.
        k: target of the mean number of active units in a sample.
        threshold: value of each unit's threshold at the start.
        bandwidth: width of the rectangle, in units of the activations.
        kwargs: further arguments of ``Dictionary``.

    Raises:
        ValueError: if k exceeds ``hidden``, or an option is not positive and finite.
    """

    takes_stacks = takes_parts = folds = steps_sparsely = True
    settings: ClassVar[tuple[str, ...]] = ("k",)
    steered = Steered("k")
    provides: ClassVar[tuple[str, ...]] = (*Dictionary.provides, "active", "k")
    k: float | list[float]

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        *,
        k: float = 8,
        threshold: float = 0.5,
        bandwidth: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, hidden, **kwargs)
        check_number("k", k, lambda x: 0 < x <= hidden, f"numbers above 0, up to hidden={hidden}")
        for name, value in (("threshold", threshold), ("bandwidth", bandwidth)):
            check_number(name, value, lambda x: x > 0, "finite numbers above 0")
        self.k = k
        self.bandwidth = bandwidth
        self.log_threshold = nn.Parameter(torch.full((hidden,), threshold).log())

    def encode(self, x: Tensor | SharedInput) -> Tensor:
        """Return the hidden activations ``(..., K)`` of inputs ``(..., D)``."""
        return self._jump(super().encode(x), self.log_threshold.exp())[0]

    def training_outputs(self, x: Tensor | SharedInput) -> dict[str, Tensor]:
        """Return the tensors of a training step, with the units that are active."""
        return self._with_active(*self._jump(super().encode(x), self.log_threshold.exp()))

    def sparse_outputs(self, x: Tensor, most: int) -> dict[str, Tensor | Code]:
        """Return the tensors of a training step; see ``Encoder.sparse_outputs``.

        The code also has entries just below the jump, because thresholds learn from them.
        """
        threshold = self.log_threshold.exp()
        lowest = (threshold.detach() - self.bandwidth / 2).clamp_(min=0)
        near = self.layer(x, most).keep(lambda z: z > lowest)
        return self._with_active(*self._jump(near, threshold))

    def _with_active(self, activations: Any, active: Any) -> dict[str, Any]:
        k = numbers_like(self.log_threshold, self.k)
        return self._outputs(activations, active=active, k=k)

    def _jump(self, z: Tensor | Code, threshold: Tensor) -> Any:
        return at_units(lambda z, theta: _Jump.apply(z, theta, self.bandwidth), z, threshold)


class _Jump(Function):
    """``z H(z - theta)`` and ``H(z - theta)``.

    The derivatives with respect to z are ``H`` and 0. Those with respect to theta are
    ``-theta K(u) / w`` and ``-K(u) / w``, K being the unit rectangle at ``u = (z - theta) / w``.
    They count where ``z > 0``, as ReLU hides how far other pre-activations are below 0.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        active = (z > threshold).to(z.dtype)
        ctx.bandwidth = bandwidth
        ctx.save_for_backward(z, threshold, active)
        return z * active, active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        z, threshold, active = ctx.saved_tensors
        of_activations, of_active = grads
        near = ((z - threshold).abs() < ctx.bandwidth / 2) & (z > 0)
        slope = (threshold * of_activations + of_active) * near
        return of_activations * active, -slope.sum_to_size(threshold.shape) / ctx.bandwidth, None
