"""TopK: the k largest pre-activations of each sample, and what revives the dead."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from implicit_em.models.dictionary import Dictionary
from implicit_em.models.linear import SharedInput
from implicit_em.models.sparsity import keep_largest


class TopK(Dictionary):
    """Dictionary with the k largest activations of each sample (Gao et al. 2024, arXiv 2406.04093).

    Units that were active on no sample for ``dead_after`` steps are dead. Of the dead the
    ``revived`` largest activations make the auxiliary reconstruction, for a loss on what the others
    leave. As in the paper, ``b_d`` starts at the geometric median.

    Args:
        in_features: width D of the input.
        hidden: number of hidden units K.
        activation: of the pre-activations, before the choice; ReLU where none is given.
        k: number of active units; fewer where fewer pre-activations are above 0.
        revived: number of dead units in the auxiliary reconstruction, the paper's k_aux; half of D
            where none is given.
        dead_after: steps.
        kwargs: of ``Dictionary``.

    Raises:
        ValueError: if there are not k units, or an option is none of these numbers.

    """

    takes_stacks = True
    settings = ("k",)
    """In which the replicas of a stack may differ; it then is a list of theirs."""
    provides: ClassVar[tuple[str, ...]] = (*Dictionary.provides, "auxiliary")
    k: int | list[int]
    silent_steps: Tensor

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        activation: nn.Module | None = None,
        k: int = 8,
        revived: int | None = None,
        dead_after: int = 500,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, hidden, activation, **kwargs)
        if not isinstance(k, int) or not 1 <= k <= hidden:
            raise ValueError(f"k={k}: must be a whole number from 1 to hidden={hidden}")
        if not isinstance(dead_after, int) or dead_after < 1:
            raise ValueError(f"dead_after={dead_after}: must be a whole number from 1 on")
        if revived is not None and (not isinstance(revived, int) or revived < 0):
            raise ValueError(f"revived={revived}: must be null or a whole number from 0 on")
        self.k = k
        self.revived = max(1, in_features // 2) if revived is None else revived
        self.dead_after = dead_after
        self.register_buffer("silent_steps", torch.zeros(hidden, dtype=torch.int64))

    def encode(self, x: Tensor | SharedInput) -> Tensor:
        """Return the hidden activations ``(..., K)`` of inputs ``(..., D)``."""
        return keep_largest(super().encode(x), self.k)

    def choose(self, activations: Tensor) -> Tensor:
        """Return those of a training batch ``(..., B, K)`` that are active, the others 0."""
        return keep_largest(activations, self.k)

    def training_outputs(self, x: Tensor | SharedInput) -> dict[str, Tensor]:
        """Return what a step needs of inputs, and count the steps for which units are silent."""
        candidates = super().encode(x)
        activations = self.choose(candidates)
        with torch.no_grad():
            active = (activations > 0).any(-2)
            self.silent_steps.add_(1).masked_fill_(active, 0)
            dead = (self.silent_steps >= self.dead_after).unsqueeze(-2)
        reconstruction = self.decode(activations)
        return {
            "energies": activations,
            "reconstruction": reconstruction,
            "decoder": self.decoder.weight,
            "auxiliary": self._revive(candidates, dead, reconstruction),
        }

    def _revive(self, candidates: Tensor, dead: Tensor, like: Tensor) -> Tensor:
        # Nobody waits for the answer of a CPU.
        if dead.device.type == "cpu" and not dead.any():
            return like.new_zeros(1).expand_as(like)
        revived = keep_largest(candidates * dead, self.revived)
        return self.decoder(revived, torch.zeros_like(self.decoder.bias))
