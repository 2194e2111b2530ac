"""The baseline: a standard sparse autoencoder."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from implicit_em.base.errors import ConfigError
from implicit_em.base.values import check_word
from implicit_em.codes import Code, Layer, positive
from implicit_em.models.encoder import Encoder
from implicit_em.models.linear import Linear, SharedInput, TiedLinear
from implicit_em.models.model import Model


class SparseAutoencoder(Model):
    """Encoder and linear decoder, trained on reconstruction and a sparsity penalty.

    The hidden activations take the place of the derived model's energies: every term and metric of
    energies applies to both.

    Args:
        in_features: width D of the input.
        hidden: number of hidden units K.
        activation: elementwise function; ``None`` for ReLU.
        out_features: width T of a target that is not the input: the model is then a transcoder
            (Dunefsky et al. 2024, arXiv 2406.11944). ``None`` for the input itself.
        skip: whether a linear path ``W_skip x``, 0 at the start, is added to the decoder's output
            (Paulo et al. 2025, arXiv 2501.18823). The loss terms get what it leaves of a
            target.

    Raises:
        ValueError: if ``skip`` is no bool, or true without another target.
    """

    takes_stacks = takes_parts = folds = steps_sparsely = True
    provides: ClassVar[tuple[str, ...]] = ("reconstruction", "decoder")
    requires: ClassVar[tuple[str, ...]] = ("reconstruction",)

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        activation: nn.Module | None = None,
        out_features: int | None = None,
        skip: bool = False,
    ) -> None:
        super().__init__(out_features)
        check_word("skip", skip, (True, False))
        if skip and out_features is None:
            raise ConfigError("skip=true: the input would explain itself; needs data.target")
        width = in_features if out_features is None else out_features
        self.encoder = Encoder(in_features, hidden, activation)
        self.decoder: Linear | TiedLinear = Linear(hidden, width)
        if skip:
            self.skip = Linear(in_features, width, bias=False)
            nn.init.zeros_(self.skip.weight)

    @property
    def weight(self) -> Tensor:
        """The encoder matrix, shape ``(K, D)``; its rows are the features."""
        return self.encoder.weight

    def encode(self, x: Tensor | SharedInput) -> Tensor:
        """Return the hidden activations ``(..., K)`` of inputs ``(..., D)``."""
        return self.encoder(x)

    def decode(self, activations: Tensor | Code, x: Tensor | None = None) -> Tensor:
        """Return the reconstructions ``(..., D)`` or ``(..., T)`` of activations ``(..., K)``.

        Args:
            activations: what ``encode`` returns.
            x: the inputs ``(..., D)``; only a model with a linear path needs the inputs.

        Raises:
            ValueError: if the model has a linear path, and there are no inputs.
        """
        if self.skip is None:
            return self.decoder(activations)
        if x is None:
            raise ConfigError("decode: with skip=true it needs the inputs, decode(activations, x)")
        return self.decoder(activations) + self.skip(x)

    @property
    def own_decoder(self) -> tuple[Tensor, Tensor] | None:
        """Weight ``(K, T)`` and bias ``(T,)`` of the decoder; ``None`` with a linear path."""
        own = self.decoder.weight.detach().mT, self.decoder.bias.detach()
        return own if self.skip is None else None

    @torch.no_grad()
    def fold(self, normalizer: Any) -> None:
        """Change the weights to take and reconstruct raw samples; see ``Encoder.fold``."""
        of_input, of_target = normalizer.sides(self.out_features)
        self.encoder.fold(of_input)
        columns, bias = self.decoder.weight, self.decoder.bias
        columns.copy_(of_target.turned_back(columns.T).T)
        level = bias.double()
        if self.skip is not None:
            path_TD = of_input.turned(self.skip.weight)
            level = level - path_TD @ of_input.mean
            self.skip.weight.copy_(of_target.turned_back(path_TD.T).T)
        bias.copy_(of_target.inverse(level))

    def place_biases(self, x: Tensor, share: float) -> None:
        """Set the encoder's biases so that a share of samples ``(N, D)`` activates each unit."""
        self.encoder.place_biases(x, share)

    def training_outputs(self, x: Tensor | SharedInput) -> dict[str, Tensor]:
        """Return the tensors of a training step: activations as ``energies``, and ``provides``."""
        return self._outputs(self.encode(x))

    def layer(self, x: Tensor, most: int) -> Layer:
        """Return the pre-activations of inputs ``(B, D)``; see ``codes.Layer``."""
        return self.encoder.layer(x, most)

    def sparse_outputs(self, x: Tensor, most: int) -> dict[str, Tensor | Code]:
        """Return the tensors of a training step; see ``Encoder.sparse_outputs``."""
        return self._outputs(self.layer(x, most).keep(positive))

    def _outputs(self, activations: Any, **others: Any) -> dict[str, Any]:
        return {
            "energies": activations,
            "reconstruction": (self.decode if self.skip is None else self.decoder)(activations),
            "decoder": self.decoder.weight,
            **others,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return what ``reconstruct`` returns."""
        return self.reconstruct(x)

    def extra_repr(self) -> str:
        """Return what calling the model returns."""
        units, width = self.weight.shape[-2], self.out_features or self.weight.shape[-1]
        return (
            f"model(x), model.reconstruct(x): reconstructions (..., {width})\n"
            f"model.encode(x): activations (..., {units})"
        )
