"""Explicit EM as an optimizer: M-steps in closed form."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from implicit_em.base.values import check_number
from implicit_em.losses import Objective
from implicit_em.models import Mixture

ROUNDING = 16
"""A step lowers a weight to no less than this many roundings of its old value."""


class EM(Optimizer):
    """M-steps of a ``models.Mixture``, from the gradients of its mean negative log-likelihood.

    These gradients hold the sufficient statistics of a batch. With means < > over its samples, they
    are ``pi_j - <r_j>`` at the logits, and ``<r_j> w_j - <r_j x>`` at the means. A step averages
    the statistics of the logits, ``pi_j <- (1 - rho) pi_j + rho <r_j>``, and likewise those of the
    means. The means then move by ``-rho / pi_j`` times their gradient, with the new ``pi_j``
    (online EM: Cappé and Moulines 2009). So a step of EM is a gradient step with a preconditioner.
    With ``rho = 1`` and all samples in one batch, a step is the exact M-step (Dempster, Laird and
    Rubin 1977). A component that a batch gives no responsibility stays where it is.

    The objective must be ``lse`` alone, with ``reduction=mean`` and weight 1.

    Args:
        params: the weight and the bias of the mixture's layer, in this order.
        lr: step size ``rho``, above 0 and at most 1.

    Raises:
        ValueError: if ``lr`` is out of range, or there are other parameters.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1.0) -> None:
        check_number("lr", lr, lambda x: 0 < x <= 1, "numbers above 0, up to 1")
        super().__init__(params, {"lr": lr})
        shapes = [tuple(tensor.shape) for tensor in self.param_groups[0]["params"]]
        if [len(shape) for shape in shapes] != [2, 1]:
            raise ValueError(f"parameters of shapes {shapes}: must be those of models.Mixture")

    @staticmethod
    def refusal(model: Module, objective: Objective) -> str | None:
        """Return why EM has no M-step for a model or an objective; ``None`` if it has one."""
        if not isinstance(model, Mixture):
            return f"fits models.Mixture, not {type(model).__name__}"
        terms = {name: (term.weight, term.options) for name, term in objective.terms.items()}
        if terms != {"lse": (1, {"reduction": "mean", "temperature": 1})}:
            return "needs lse alone, of weight 1 and reduction=mean, as in loss=likelihood"
        return None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make an M-step."""
        loss = None if closure is None else closure()
        group = self.param_groups[0]
        step: float = group["lr"]
        means_KD, logits_K = group["params"]
        if means_KD.grad is None:
            return loss
        before_K, precision = logits_K.softmax(-1), torch.finfo(logits_K.dtype)
        weights_K = before_K.sub(logits_K.grad, alpha=step)
        # A weight that has all but vanished is rounding, and the means' step divides by it.
        weights_K.clamp_min_(precision.tiny).clamp_min_(before_K * (ROUNDING * precision.eps))
        means_KD.addcdiv_(means_KD.grad, weights_K[:, None], value=-step)
        logits_K.copy_(weights_K.log_())
        return loss
