"""Elementwise activations: a list from ``torch.nn``, and one that ``torch.nn`` lacks."""

from torch import Tensor, nn

ELEMENTWISE = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Softplus, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.ELU, nn.CELU, nn.SELU, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Softsign),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Threshold),
)
"""Elementwise activations of ``torch.nn`` without parameters."""


class Abs(nn.Module):
    """``|z|``: the distance to a hyperplane; every unit passes a gradient on both sides of it."""

    takes_stacks = takes_parts = True

    def forward(self, z: Tensor) -> Tensor:
        """Return the absolute value, elementwise."""
        return z.abs()
