"""BatchTopK: the largest activations of a whole batch."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from implicit_em.base.values import check_number
from implicit_em.codes import Code, Layer, positions, smallest_positive
from implicit_em.models.topk import LONG, TopK, keep_largest, largest_positive, lower_bound


class BatchTopK(TopK):
    """Dictionary with k active units a sample on average (Bussmann et al. 2024, arXiv 2412.06410).

    Training keeps the ``B k`` largest activations of a batch. Elsewhere a sample must not depend on
    other samples, so the activations above a threshold are kept. The threshold is a running mean,
    over the training steps, of the smallest activation that was kept. Each sweep has its own; later
    sweeps of ``encode`` have the last one.

    Args:
        in_features: width D of the input.
        hidden: number of hidden units K.
        momentum: weight of a step in the running mean, in (0, 1].
        kwargs: further arguments of ``TopK``.

    Raises:
        ValueError: if ``momentum`` is not in (0, 1], or ``TopK`` refuses its arguments.
    """

    takes_stacks = folds = steps_sparsely = True
    threshold: Tensor

    def __init__(
        self, in_features: int, hidden: int = 64, *, momentum: float = 0.01, **kwargs: Any
    ) -> None:
        super().__init__(in_features, hidden, **kwargs)
        check_number("momentum", momentum, lambda x: 0 < x <= 1, "numbers above 0, up to 1")
        self.momentum = momentum
        self.register_buffer("threshold", torch.zeros(self.sweeps))

    def keep(self, proposals: Tensor | Layer, sweep: int, reading: bool) -> Tensor | Code:
        """Return the proposals that a sweep keeps, and 0 for all others."""
        place = min(sweep, self.sweeps - 1)
        if not reading:
            kept = super().keep(proposals, sweep, reading)
            self._note(smallest_positive(kept), place)
            return kept
        least = self.threshold[..., place : place + 1]
        if isinstance(proposals, Layer):
            return proposals.keep(lambda z: z > least)
        return proposals * (proposals > least)

    def choose(self, activations: Tensor) -> Tensor:
        """Return the activations ``(..., B, K)`` of a training batch, 0 for all but the largest."""
        batch_size = activations.shape[-2]
        counts = [k * batch_size for k in ([self.k] if isinstance(self.k, int) else self.k)]
        return keep_largest(activations.flatten(-2), counts).view_as(activations)

    def select(self, layer: Layer) -> Tensor | Code:
        """Return the activations of a training batch that are selected."""
        count = int(self.k) * len(layer.x_BD)  # type: ignore[arg-type]
        if layer.x_BD.device.type != "cpu":  # where the host would wait for the device
            return layer.keep_largest(count, of_all=True)
        among = partial(largest_positive, count=count)
        return layer.keep(partial(largest_of_all, count=count), among)

    @torch.no_grad()
    def _note(self, smallest: Tensor, place: int) -> None:
        threshold = self.threshold[..., place : place + 1]
        # A batch without activity leaves the threshold as it is.
        weight = self.momentum * smallest.isfinite()
        threshold.add_(weight * (smallest.nan_to_num(posinf=0) - threshold))


def largest_of_all(z: Tensor, count: int) -> Tensor:
    """Return a mask of the ``count`` largest pre-activations ``(B, K)`` that are above 0."""
    flat = z.flatten()
    if len(flat) < LONG:
        return largest_positive(flat, count).view_as(z)
    candidates = positions(flat > lower_bound(flat, count))
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[candidates[largest_positive(flat[candidates], count)]] = True
    return chosen.view_as(z)
