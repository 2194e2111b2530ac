"""The base of today's sparse autoencoders: a dictionary that starts from the data."""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from implicit_em.base.errors import ConfigError
from implicit_em.base.values import check_word
from implicit_em.codes import AT_A_TIME, Layer
from implicit_em.models.encoder import OWN_INPUT
from implicit_em.models.linear import SharedInput, TiedLinear, freeze
from implicit_em.models.sae import SparseAutoencoder

Middle = Literal["zero", "mean", "median"]
Frozen = Literal["encoder", "decoder", "near"]
NEAREST = 0.8
"""Least cosine of a column with its start, in a decoder that stays near its start."""
COLUMNS = 8192
"""Number of columns that a step changes at a time."""
TIED_START = 8
"""Density at the start of a tied dictionary, divided by the density that other ones start at.

The rows of a tied dictionary overlap, so its biases have a long way to go. If the biases start near
the end of this way, codes of many active units explain less.
"""
ELEMENTS = 2**17
"""Number of weights of a stack that a CPU changes at a time, if a replica has no more."""


class Dictionary(SparseAutoencoder):
    """Sparse autoencoder ``a = activation(W_e (x - b_d) + b_e)``, ``x' = W_d a + b_d``.

    It starts with random directions and ``W_e = W_d^T``; ``start`` puts ``b_d`` in the middle of
    the data. The defaults are from Bricken et al. 2023 (Towards Monosemanticity): the columns of
    ``W_d`` have length 1 after every step, their gradients have no part along them, and ``b_d``
    starts at the geometric median. Dead units are not resampled, and the transposed start is that
    of Conerly et al. and Gao et al. 2024. With free columns and ``b_d`` not subtracted, the model
    is that of Conerly et al. 2024 (Circuits Updates, April), for a penalty on ``|a_j| ||W_d,j||``.

    A tied dictionary has no decoder matrix of its own: ``W_d = W_e^T`` throughout, as in the
    k-sparse autoencoder of Makhzani and Frey 2013 (arXiv 1312.5663). A frozen one is a control
    (Korznikov et al. 2026, arXiv 2602.14111): what does training one of the matrices add?

    Args:
        in_features: width D of the input.
        hidden: number of hidden units K.
        activation: elementwise function; ``None`` for ReLU.
        unit_columns: whether the columns of ``W_d`` keep length 1; if not, they start with 0.1.
        subtract_bias: whether ``b_d`` is subtracted from the input.
        middle: start of ``b_d``: zero, or the mean or geometric median of the data.
        tied: whether the rows of ``W_e`` are the columns of ``W_d``.
        out_features: width of a target that is not the input. Then rows of ``W_e`` start in
            directions of their own, and nothing is subtracted from the input.
        skip: see ``SparseAutoencoder``.
        frozen: matrix that keeps its random start, ``encoder`` or ``decoder``; or ``near``, where
            each column of ``W_d`` keeps a cosine of at least 0.8 with its start; ``None`` for none.

    Raises:
        ConfigError: if a tied dictionary is to explain another target than its input.
        ValueError: if ``middle`` or ``frozen`` is another word, a switch is not a bool, or a tied
            dictionary is frozen, or columns without a fixed length are to stay near their start.
    """

    takes_stacks = takes_parts = folds = steps_sparsely = True
    start_columns: Tensor

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        activation: nn.Module | None = None,
        unit_columns: bool = True,
        subtract_bias: bool = True,
        middle: Middle = "median",
        tied: bool = False,
        frozen: Frozen | None = None,
        out_features: int | None = None,
        skip: bool = False,
    ) -> None:
        super().__init__(in_features, hidden, activation, out_features, skip)
        check_word("middle", middle, get_args(Middle))
        check_word("unit_columns", unit_columns, (True, False))
        check_word("subtract_bias", subtract_bias, (True, False))
        check_word("tied", tied, (True, False))
        check_word("frozen", frozen, (None, *get_args(Frozen)))
        if tied:
            check_word("frozen", frozen, (None,), " with tied=true")
            if out_features is not None:
                raise ConfigError(OWN_INPUT)
        if frozen == "near":
            check_word("unit_columns", unit_columns, (True,), " with frozen=near")
        self.unit_columns = unit_columns
        self.subtract_bias = subtract_bias and out_features is None
        self.middle = middle
        self.tied = tied
        self.frozen = frozen
        if tied:
            self.decoder = TiedLinear(self.encoder.linear)
        with torch.no_grad():
            columns = self.decoder.weight
            length = 1 if unit_columns else 0.1
            columns.mul_(length / columns.norm(dim=0))
            if out_features is not None:
                self.encoder.weight.mul_(length / self.encoder.weight.norm(dim=1, keepdim=True))
            elif not tied:
                self.encoder.weight.copy_(columns.T)
            self.decoder.bias.zero_()
            self.encoder.linear.bias.zero_()
        if frozen == "near":
            self.register_buffer("start_columns", columns.detach().clone())
        elif frozen:
            freeze(self.decoder if frozen == "decoder" else self.encoder.linear)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Set the decoder's bias to the middle of what is to be explained, ``(N, D)``."""
        if self.middle != "zero":
            middle = x.mean(0) if self.middle == "mean" else geometric_median(x)
            self.decoder.bias.copy_(middle)

    @torch.no_grad()
    def place_biases(self, x: Tensor, share: float) -> None:
        """Set the encoder's biases so that a share of samples ``(N, D)`` activates each unit.

        Pre-activations of a tied dictionary are centred. Then all are lowered by the same number,
        so that ``TIED_START`` times the share of all activations is above 0, at most half. A unit
        of much variance is active more often.
        """
        bias = self.encoder.linear.bias
        if self.tied:
            bias.copy_(-self.weight @ x.mean(0))
            density = min(0.5, TIED_START * share)
            bias.sub_(_upper_quantile(self.encoder.linear, x, density))
        else:
            super().place_biases(x, share)
        if self._origin is not None:
            bias.add_(self.encoder.weight @ self._origin)

    def pre_activations(self, x: Tensor | SharedInput) -> Tensor:
        """Return ``W_e (x - b_d) + b_e``, shape ``(..., K)``."""
        return self.encoder.linear(x, origin=self._origin)

    @property
    def _origin(self) -> Tensor | None:
        """What is subtracted from inputs."""
        return self.decoder.bias if self.subtract_bias else None

    def layer(self, x: Tensor, most: int) -> Layer:
        """Return the pre-activations of inputs ``(B, D)``; see ``codes.Layer``."""
        return Layer(self.encoder.linear, x, most, self._origin)

    def encode(self, x: Tensor | SharedInput) -> Tensor:
        """Return the hidden activations ``(..., K)`` of inputs ``(..., D)``."""
        return self.encoder.activation(self.pre_activations(x))

    @torch.no_grad()
    def fold(self, normalizer: Any) -> None:
        """Change the weights to take and reconstruct raw samples; see ``Encoder.fold``.

        A tied dictionary is no longer tied then.
        """
        if isinstance(self.decoder, TiedLinear):
            self.decoder, self.tied = self.decoder.untied(), False
        bias = self.encoder.linear.bias.clone()
        super().fold(normalizer)
        if self.subtract_bias:  # the decoder's bias, which is subtracted, holds the mean
            self.encoder.linear.bias.copy_(bias)

    @torch.no_grad()
    def before_step(self) -> None:
        """Remove the part of the decoder's gradient that changes the lengths of its columns."""
        weight = self.encoder.weight if self.tied else self.decoder.weight
        if self.unit_columns and weight.grad is not None:
            slopes = weight.grad.mT if self.tied else weight.grad
            for columns, slope in zip(_parts(self.decoder.weight), _parts(slopes), strict=True):
                slope.sub_(columns * (columns * slope).sum(-2, keepdim=True))

    @torch.no_grad()
    def after_step(self) -> None:
        """Give the decoder's columns length 1 again, and turn them back if they must stay near."""
        if self.unit_columns and self.frozen != "decoder":
            for columns in _parts(self.decoder.weight):
                columns.div_(columns.square().sum(-2, keepdim=True).sqrt_())
        if self.frozen == "near":
            starts = _parts(self.start_columns)
            for columns, start in zip(_parts(self.decoder.weight), starts, strict=True):
                _keep_near(columns, start)


def _keep_near(columns: Tensor, start: Tensor) -> None:
    """Turn unit columns ``(..., D, K)`` back to the least cosine with their start, if below it."""
    along = (columns * start).sum(-2, keepdim=True)
    across = columns - along * start
    across.mul_((1 - NEAREST**2) ** 0.5 / across.square().sum(-2, keepdim=True).sqrt_())
    columns.copy_(torch.where(along < NEAREST, NEAREST * start + across, columns))


def _upper_quantile(linear: nn.Linear, x: Tensor, share: float) -> Tensor:
    """Return the number that a share of the outputs for samples ``(N, D)`` exceed, above 0.

    For a wide layer, only the first samples count.
    """
    outputs = linear(x[: max(1, AT_A_TIME // len(linear.weight))]).flatten()
    return outputs.kthvalue(max(1, round((1 - share) * len(outputs)))).values.clamp(min=0)


def _parts(weight: Tensor) -> Iterator[Tensor]:
    """Yield parts ``(..., D, K')`` of a matrix whose temporary tensors fit a cache."""
    for columns in weight.split(COLUMNS, -1):
        # Only a CPU has such a cache; elsewhere, more calls cost time.
        if weight.dim() == 3 and weight.device.type == "cpu":
            yield from columns.split(max(1, ELEMENTS // columns[0].numel()))
        else:
            yield columns


def geometric_median(x: Tensor, tolerance: float = 1e-4, iterations: int = 100) -> Tensor:
    """Return the point of least summed distance to the rows of ``(N, D)`` (Weiszfeld 1937).

    The search ends at a step shorter than ``tolerance`` times the mean distance.
    """
    median = x.mean(0)
    for _ in range(iterations):
        distance_N = torch.cdist(x, median[None]).squeeze(-1).clamp_(min=1e-12)
        closeness_N = distance_N.reciprocal()
        before, median = median, closeness_N @ x / closeness_N.sum()
        if (median - before).norm() <= tolerance * distance_N.mean():
            break
    return median
