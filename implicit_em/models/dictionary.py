"""The base of today's sparse autoencoders: a dictionary, started from the data."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from implicit_em.models.linear import SharedInput
from implicit_em.models.sae import SparseAutoencoder

Middle = Literal["zero", "mean", "median"]
FREE_LENGTH = 0.1
"""Of the decoder's columns at the start, where they are free."""


class Dictionary(SparseAutoencoder):
    """Sparse autoencoder ``a = activation(W_e (x - b_d) + b_e)``, ``x' = W_d a + b_d``.

    Starts with random directions, ``W_e = W_d^T``, and ``b_d`` in the middle of the data, as
    ``start`` finds it before training. By default it is that of Bricken et al. 2023 (Towards
    Monosemanticity), but for the transposed start, which is of Conerly et al. and Gao et al. 2024:
    columns of length 1 after every step, whose gradients have no part along them, and ``b_d`` from
    the geometric median. With free columns and ``b_d`` not subtracted, that of Conerly et al. 2024
    (Circuits Updates, April), for a penalty on ``|a_j| ||W_d,j||``. No dead unit is sampled anew.

    Args:
        in_features: width D of the input.
        hidden: number of hidden units K.
        activation: elementwise; ReLU where none is given.
        unit_columns: whether the columns of ``W_d`` keep length 1; free ones start with 0.1.
        subtract_bias: whether ``b_d`` is subtracted from the input.
        middle: where ``b_d`` starts: zero, the data's mean, or their geometric median.

    Raises:
        ValueError: for another middle, or what is neither true nor false.

    """

    takes_stacks = takes_parts = True

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        activation: nn.Module | None = None,
        unit_columns: bool = True,
        subtract_bias: bool = True,
        middle: Middle = "median",
    ) -> None:
        super().__init__(in_features, hidden, activation)
        if middle not in get_args(Middle):
            raise ValueError(f"middle={middle}: allowed are {', '.join(get_args(Middle))}")
        for name, value in (("unit_columns", unit_columns), ("subtract_bias", subtract_bias)):
            if not isinstance(value, bool):
                raise ValueError(f"{name}={value}: must be true or false")
        self.unit_columns = unit_columns
        self.subtract_bias = subtract_bias
        self.middle = middle
        with torch.no_grad():
            columns = self.decoder.weight
            columns.mul_((1 if unit_columns else FREE_LENGTH) / columns.norm(dim=0))
            self.encoder.weight.copy_(columns.T)
            self.decoder.bias.zero_()
            self.encoder.linear.bias.zero_()

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Put the decoder's bias into the middle of the training samples ``(N, D)``."""
        if self.middle != "zero":
            middle = x.mean(0) if self.middle == "mean" else geometric_median(x)
            self.decoder.bias.copy_(middle)

    def pre_activations(self, x: Tensor | SharedInput) -> Tensor:
        """Return ``W_e (x - b_d) + b_e``, shape ``(..., K)``."""
        linear = self.encoder.linear
        if not self.subtract_bias:
            return linear(x)
        # W_e b_d, not x - b_d: a stack's batches are shared, and larger than its weights.
        shift = (linear.weight * self.decoder.bias.unsqueeze(-2)).sum(-1)
        return linear(x, linear.bias - shift)

    def encode(self, x: Tensor | SharedInput) -> Tensor:
        """Return the hidden activations ``(..., K)`` of inputs ``(..., D)``."""
        return self.encoder.activation(self.pre_activations(x))

    @torch.no_grad()
    def before_step(self) -> None:
        """Take from the decoder's gradient what would only change the lengths of its columns."""
        columns, slope = self.decoder.weight, self.decoder.weight.grad
        if self.unit_columns and slope is not None:
            slope.sub_(columns * (columns * slope).sum(-2, keepdim=True))

    @torch.no_grad()
    def after_step(self) -> None:
        """Give the decoder's columns length 1 again."""
        if self.unit_columns:
            columns = self.decoder.weight
            columns.div_(columns.square().sum(-2, keepdim=True).sqrt_())


def geometric_median(x: Tensor, tolerance: float = 1e-4, iterations: int = 100) -> Tensor:
    """Return the point of least summed distance to the rows of ``(N, D)`` (Weiszfeld 1937).

    Args:
        x: floating point.
        tolerance: of the last step's length, relative to the mean distance.
        iterations: at most.

    """
    median = x.mean(0)
    for _ in range(iterations):
        distance_N = torch.cdist(x, median[None]).squeeze(-1).clamp_(min=1e-12)
        closeness_N = distance_N.reciprocal()
        before, median = median, closeness_N @ x / closeness_N.sum()
        if (median - before).norm() <= tolerance * distance_N.mean():
            break
    return median
