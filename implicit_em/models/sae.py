"""The baseline: a standard sparse autoencoder."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from implicit_em.codes import Code, Layer, positive
from implicit_em.models.described import Described
from implicit_em.models.encoder import Encoder
from implicit_em.models.linear import Linear, SharedInput, TiedLinear


class SparseAutoencoder(Described):
    """Encoder and linear decoder, trained on reconstruction and a sparsity penalty.

    The hidden activations take the place of the derived model's energies: every term and metric of
    energies applies to both.

    Args:
        in_features: width D of the input.
        hidden: number of hidden units K.
        activation: elementwise function; ``None`` for ReLU.
    """

    takes_stacks = takes_parts = folds = steps_sparsely = True
    provides: ClassVar[tuple[str, ...]] = ("reconstruction", "decoder")
    requires: ClassVar[tuple[str, ...]] = ("reconstruction",)
    settings: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, in_features: int, hidden: int = 64, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.encoder = Encoder(in_features, hidden, activation)
        self.decoder: Linear | TiedLinear = Linear(hidden, in_features)

    @property
    def weight(self) -> Tensor:
        """The encoder matrix, shape ``(K, D)``; its rows are the features."""
        return self.encoder.weight

    def encode(self, x: Tensor | SharedInput) -> Tensor:
        """Return the hidden activations ``(..., K)`` of inputs ``(..., D)``."""
        return self.encoder(x)

    def decode(self, activations: Tensor | Code) -> Tensor:
        """Return the reconstructions ``(..., D)`` of activations ``(..., K)``."""
        return self.decoder(activations)

    @torch.no_grad()
    def fold(self, normalizer: Any) -> None:
        """Change the weights to take and reconstruct raw samples; see ``Encoder.fold``."""
        self.encoder.fold(normalizer)
        columns, bias = self.decoder.weight, self.decoder.bias
        columns.copy_(normalizer.turned_back(columns.T).T)
        bias.copy_(normalizer.inverse(bias.double()))

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
            "reconstruction": self.decode(activations),
            "decoder": self.decoder.weight,
            **others,
        }

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the reconstructions of inputs by the decoder, both ``(..., D)``."""
        return self.decode(self.encode(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstructions of inputs, both ``(..., D)``."""
        return self.reconstruct(x)

    def extra_repr(self) -> str:
        """Return what calling the model returns."""
        units, width = self.weight.shape[-2:]
        return (
            f"model(x), model.reconstruct(x): reconstructions (..., {width})\n"
            f"model.encode(x): activations (..., {units})"
        )
