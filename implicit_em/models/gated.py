"""Gated: a gate decides whether a unit is active, a magnitude how much."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from implicit_em.codes import Code, at_units, positive
from implicit_em.models.dictionary import Dictionary
from implicit_em.models.linear import SharedInput


class Gated(Dictionary):
    """Dictionary with ``a = H(g) ReLU(m)`` (Rajamanoharan et al. 2024, arXiv 2404.16014).

    Gate ``g = W_e (x - b_d) + b_g`` and magnitude ``m = exp(r) W_e (x - b_d) + b_m`` share their
    matrix. The gate learns from a penalty on ReLU(g), and from the reconstruction of ReLU(g) by the
    decoder, which gets no gradient from it.

    Args:
        in_features: width D of the input.
        hidden: number of hidden units K.
        kwargs: further arguments of ``Dictionary``; its activation acts on gates and magnitudes.
    """

    takes_stacks = takes_parts = steps_sparsely = True
    provides: ClassVar[tuple[str, ...]] = (*Dictionary.provides, "gates", "auxiliary")
    requires: ClassVar[tuple[str, ...]] = (*Dictionary.requires, "auxiliary")

    def __init__(self, in_features: int, hidden: int = 64, **kwargs: Any) -> None:
        super().__init__(in_features, hidden, **kwargs)
        self.log_scale = nn.Parameter(torch.zeros(hidden))
        self.magnitude_bias = nn.Parameter(torch.zeros(hidden))

    @torch.no_grad()
    def place_biases(self, x: Tensor, share: float) -> None:
        """Set the biases of gates and magnitudes, so that both are above 0 for the same samples."""
        super().place_biases(x, share)
        self.magnitude_bias.copy_(self.log_scale.exp() * self.encoder.linear.bias)

    def encode(self, x: Tensor | SharedInput) -> Tensor:
        """Return the hidden activations ``(..., K)`` of inputs ``(..., D)``."""
        return self._gate(x)[0]

    def training_outputs(self, x: Tensor | SharedInput) -> dict[str, Tensor]:
        """Return the tensors of a training step, with the gates and what they reconstruct."""
        return self._with_gates(*self._gate(x))

    def sparse_outputs(self, x: Tensor, most: int) -> dict[str, Tensor | Code]:
        """Return the tensors of a training step; see ``Encoder.sparse_outputs``."""
        gates = self.layer(x, most).keep(positive)
        return self._with_gates(self._opened(gates), gates)

    def _with_gates(self, activations: Any, gates: Any) -> dict[str, Any]:
        frozen = self.decoder.weight.detach()
        auxiliary = gates @ frozen.mT + self.decoder.bias.detach().unsqueeze(-2)
        return self._outputs(activations, gates=gates, auxiliary=auxiliary)

    def _gate(self, x: Tensor | SharedInput) -> tuple[Tensor, Tensor]:
        gate = self.pre_activations(x)
        return self._opened(gate), self.encoder.activation(gate)

    def _opened(self, gate: Any) -> Any:
        """Return the activations for the values of gates; a closed gate is 0."""

        def opened(gate: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return (gate > 0) * self.encoder.activation(scale * (gate - bias) + shift)

        by_unit = (self.encoder.linear.bias, self.log_scale.exp(), self.magnitude_bias)
        return at_units(opened, gate, *by_unit)
