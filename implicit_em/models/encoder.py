"""The derived model: one linear layer and an activation, no decoder."""

from typing import Any

import torch
from torch import Tensor, nn

from implicit_em.base.errors import ConfigError
from implicit_em.base.values import check_whole
from implicit_em.codes import Code, Layer, positive
from implicit_em.models.declarations import declares
from implicit_em.models.linear import Linear, SharedInput
from implicit_em.models.model import Model

OWN_INPUT = "its rows also decode, so it explains its input alone; allowed is data.target=null"
"""Message of a model that takes no other target."""
UNITS = 256
"""Number of units whose pre-activations of all samples ``place_biases`` holds in memory."""


class Encoder(Model):
    """Linear layer and activation that give energies, ``E = activation(W x + b)``.

    The layer starts as ``torch.nn.Linear`` does. Oursland 2024 reads the outputs of such a layer as
    distances to prototypes; Oursland 2026 (arXiv 2601.06478) derives the mixture that they define.

    Args:
        in_features: width D of the input.
        hidden: number of components K.
        activation: elementwise function; ``None`` for ReLU.
        out_features: width of a target that is not the input; a decoder that is fitted after the
            training explains it. ``None`` for the input itself.
    """

    takes_stacks = takes_parts = folds = steps_sparsely = True

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        activation: nn.Module | None = None,
        out_features: int | None = None,
    ) -> None:
        super().__init__(out_features)
        check_whole("hidden", hidden, 1)
        if out_features is not None and declares(self, "decodes"):
            raise ConfigError(OWN_INPUT)
        if not (activation is None or callable(activation)):
            raise ConfigError(f"activation={activation}: must be a module, such as torch.nn.ReLU()")
        self.linear = Linear(in_features, hidden)
        self.activation = nn.ReLU() if activation is None else activation

    @property
    def weight(self) -> Tensor:
        """The encoder matrix, shape ``(K, D)``; its rows are the features."""
        return self.linear.weight

    def forward(self, x: Tensor | SharedInput) -> Tensor:
        """Return the energies ``(..., K)`` of inputs ``(..., D)``."""
        return self.activation(self.linear(x))

    def encode(self, x: Tensor | SharedInput) -> Tensor:
        """Return the energies ``(..., K)`` of inputs ``(..., D)``."""
        return self(x)

    def decode(self, activations: Tensor, x: Tensor | None = None) -> Tensor:
        """Return ``E W``, the reconstructions ``(..., D)``, of a class whose rows are a decoder.

        Raises:
            ValueError: if the class does not declare ``decodes`` (see ``models.declarations``).
                ``implicit_em.fit_decoder`` then fits a decoder.
        """
        if not declares(self, "decodes"):
            raise ConfigError(
                f"{type(self).__name__}: its rows are no decoder; "
                "implicit_em.fit_decoder(model, x) fits one"
            )
        return activations @ self.weight

    def extra_repr(self) -> str:
        """Return what calling the model returns."""
        return f"model(x), model.encode(x): energies (..., {self.weight.shape[-2]})"

    @torch.no_grad()
    def fold(self, normalizer: Any) -> None:
        """Replace W by ``W A`` and b by ``b - W A m``, to take raw samples.

        A raw sample x then has the energies that ``A (x - m)`` had before.

        Args:
            normalizer: affine ``models.normalizing.Normalizer``, which maps x to ``A (x - m)``.
        """
        normalizer, _ = normalizer.sides(self.out_features)
        rows_KD = normalizer.turned(self.weight)
        self.linear.bias.sub_(rows_KD @ normalizer.mean)
        self.weight.copy_(rows_KD)

    @torch.no_grad()
    def place_biases(self, x: Tensor, share: float) -> None:
        """Set each bias so that a share of samples ``(N, D)`` has a pre-activation above 0."""
        linear, silent = self.linear, max(1, round((1 - share) * len(x)))
        for rows, biases in zip(linear.weight.split(UNITS), linear.bias.split(UNITS), strict=True):
            values = rows @ x.T
            last, first = (values.kthvalue(n).values for n in (silent, min(silent + 1, len(x))))
            biases.copy_(-(last + first) / 2)

    def training_outputs(self, x: Tensor | SharedInput) -> dict[str, Tensor]:
        """Return the tensors of a training step: the ``energies``."""
        return {"energies": self(x)}

    def layer(self, x: Tensor, most: int) -> Layer:
        """Return the pre-activations of inputs ``(B, D)``; see ``codes.Layer``."""
        return Layer(self.linear, x, most)

    def sparse_outputs(self, x: Tensor, most: int) -> dict[str, Tensor | Code]:
        """Return what ``training_outputs`` returns, for inputs ``(B, D)``.

        Energies are a ``Code`` if it has at most ``most`` entries.
        """
        return {"energies": self.layer(x, most).keep(positive)}

    def responsibilities(self, x: Tensor) -> Tensor:
        """Return ``softmax(-E)``, shape ``(..., K)``: the posterior over components."""
        return (-self(x)).softmax(-1)


class SampledEncoder(Encoder):
    """The derived model, with rows that start in the directions of training samples.

    Prototypes of a mixture often start from samples (Forgy 1965). Here ``w_j`` points along
    ``x_i - m``, with the mean m and i drawn without replacement. It is as long as torch's own rows
    are on average, and ``b_j = -w_j m``.
    """

    takes_stacks = takes_parts = folds = steps_sparsely = True

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Draw the rows from the training samples ``(N, D)``.

        Raises:
            ValueError: if there are fewer samples than rows.
        """
        mean_D = x.mean(0)
        rows_KD = nn.functional.normalize(drawn(x, len(self.weight)) - mean_D)
        self.weight.copy_(rows_KD / 3**0.5)
        self.linear.bias.copy_(-self.weight @ mean_D)


def drawn(x: Tensor, hidden: int) -> Tensor:
    """Return as many samples as components, drawn from ``(N, D)`` without replacement.

    Raises:
        ValueError: if there are fewer samples than components.
    """
    if len(x) < hidden:
        raise ValueError(f"hidden={hidden}: more than the {len(x)} training samples")
    return x[torch.randperm(len(x))[:hidden]]
