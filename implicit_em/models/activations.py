"""Elementwise activations that ``torch.nn`` does not have."""

from torch import Tensor, nn


class Abs(nn.Module):
    """``|z|``: the distance to a hyperplane; every unit passes a gradient on both sides of it."""

    def forward(self, z: Tensor) -> Tensor:
        """Return the absolute value, elementwise."""
        return z.abs()
