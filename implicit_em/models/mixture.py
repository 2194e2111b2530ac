"""The mixture that explicit EM fits: Gaussians of one fixed variance, as a linear layer."""

from typing import Any

import torch
from torch import Tensor, nn

from implicit_em.models.encoder import Encoder, drawn


class Mixture(Encoder):
    """Gaussian mixture of variance 1: ``E_j = -w_j x + |w_j|^2 / 2 - log pi_j``.

    The rows are the means of the components, and the bias is tied to them. The energies are
    ``-log(pi_j N(x; w_j, I))``, up to ``|x|^2 / 2`` and a constant, which all components share. So
    LSE is the negative log-likelihood, up to these two terms, and ``optimizer=em`` can minimise LSE
    in closed form. Scale the samples to set the variance (``data.normalize``).

    The layer's ``bias`` holds the logits of the mixture's weights, ``pi = softmax(bias)``.

    Args:
        in_features: width D of the input.
        hidden: number of components K.
    """

    takes_stacks = takes_parts = True

    def __init__(self, in_features: int, hidden: int = 64) -> None:
        super().__init__(in_features, hidden, nn.Identity())
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Any) -> Tensor:
        """Return the energies ``(..., K)`` of inputs ``(..., D)``."""
        log_weights = self.linear.bias.log_softmax(-1)
        return -self.linear(x, log_weights - self.weight.square().sum(-1) / 2)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Draw the means from the training samples ``(N, D)``, without replacement.

        Raises:
            ValueError: if there are fewer samples than components.
        """
        self.weight.copy_(drawn(x, len(self.weight)))
