"""Units that are each on or off: energies that see the data, and no decoder."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from implicit_em.base.values import check_number, check_word
from implicit_em.codes import Code, at_units
from implicit_em.models.dictionary import Dictionary
from implicit_em.models.linear import SharedInput, upper_quantile

LEAST_ODDS = 3.0
"""Log odds at which a unit without evidence, ``z <= 0``, has the responsibility 0."""


class SpikeSlab(Dictionary):
    """Tied dictionary of units that are on or off, independent of each other given the input.

    With ``z = W (x - m) + b`` and ``a = max(z, 0)``, unit j has the energy ``e_j = lambda T - a_j^2
    / 2`` when it is on, and 0 when it is off. Here T is the temperature, and lambda are the log
    odds of being off. The free energy of an input is ``F(x) = ||x - m||^2 / 2 + sum_j U(e_j)``,
    where ``U`` is ``free_energy``. Its derivative ``dF/de_j`` is the responsibility ``r_j``, the
    identity of Oursland 2026 (arXiv 2601.06478) for each unit. And ``-grad F(x) = W^T E - (x - m)``
    with ``E_j = r_j a_j``: the gradient of the energy reconstructs x, by the rows of the encoder.

    A training step is one of EM. The E-step is ``r``. The M-step holds it fixed, and is score
    matching (Hyvärinen 2005) of the energy with the units given, ``||x - m||^2 / 2 + sum_j s_j
    e_j``, in expectation over ``s_j``, which is 1 with probability ``r_j``: the terms ``mse`` and
    ``slab`` of the losses. As T falls, it becomes a k-sparse autoencoder with tied weights
    (Makhzani and Frey 2013): hard EM. The relatives are the spike-and-slab RBM (Courville 2011) and
    score matching as an autoencoder (Swersky 2011).

    F belongs to no normalised density, so there is no likelihood.

    Args:
        in_features: width D of the input.
        hidden: number of units K.
        activation: function of the pre-activations that gives ``a``; ``None`` for ReLU.
        temperature: T at the start, in units of a squared pre-activation; ``model.l0`` steers it.
        log_odds: ``lambda``, above 3. A unit is half on at ``z^2 = 2 lambda T``, off from ``z^2 = 2
            (lambda - 3) T`` down, and fully on from ``2 (lambda + 3) T`` up.
        held: whether a step holds the responsibilities fixed. If not, the step is score matching
            of F itself, whose gradient goes through them.
        kwargs: further arguments of ``Dictionary``.

    Raises:
        ValueError: if an option is out of its range, or ``tied`` is given as false.
    """

    takes_stacks = takes_parts = folds = steps_sparsely = True
    provides: ClassVar[tuple[str, ...]] = (*Dictionary.provides, "slab")
    temperature: Tensor
    initial: Tensor

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        activation: nn.Module | None = None,
        temperature: float = 0.1,
        log_odds: float = 30.0,
        held: bool = True,
        **kwargs: Any,
    ) -> None:
        check_word("tied", kwargs.pop("tied", True), (True,))
        super().__init__(in_features, hidden, activation, tied=True, **kwargs)
        check_number("temperature", temperature, lambda x: x > 0, "finite numbers above 0")
        check_number("log_odds", log_odds, lambda x: x > LEAST_ODDS, "finite numbers above 3")
        check_word("held", held, (True, False))
        self.log_odds = log_odds
        self.held = held
        self.register_buffer("temperature", torch.tensor([float(temperature)]))
        self.register_buffer("initial", self.temperature.clone())

    def encode(self, x: Tensor | SharedInput) -> Tensor:
        """Return the code ``E = r a``, shape ``(..., K)``, of inputs ``(..., D)``."""
        a = super().encode(x)
        return a * self._responsibilities(a)

    def responsibilities(self, x: Tensor | SharedInput) -> Tensor:
        """Return ``r = dF/de``, shape ``(..., K)``: how far each unit is on."""
        return self._responsibilities(super().encode(x))

    def energies(self, x: Tensor | SharedInput) -> Tensor:
        """Return the energies ``e`` of the units when they are on, shape ``(..., K)``."""
        a = super().encode(x)
        return self.log_odds * self._at(a) - a.square() / 2

    def free_energy(self, x: Tensor) -> Tensor:
        """Return ``F(x)``, shape ``(...)``, of inputs ``(..., D)``."""
        distance = (x - self.decoder.bias.unsqueeze(-2)).square().sum(-1) / 2
        return distance + free_energy(self.energies(x), self.temperature.unsqueeze(-1)).sum(-1)

    def training_outputs(self, x: Tensor | SharedInput) -> dict[str, Tensor]:
        """Return the tensors of a training step, with the terms of the slab."""
        return self._step(super().encode(x))

    def sparse_outputs(self, x: Tensor, most: int) -> dict[str, Tensor | Code]:
        """Return the tensors of a training step; see ``Encoder.sparse_outputs``."""
        least = (2 * (self.log_odds - LEAST_ODDS) * self.temperature).sqrt()
        return self._step(self.layer(x, most).keep(lambda z: z > least))

    def _step(self, a: Tensor | Code) -> dict[str, Any]:
        temperature_K = self.temperature.clone().expand(*self.temperature.shape[:-1], a.shape[-1])
        activations, slab = at_units(self._slab, a, temperature_K)
        return self._outputs(activations, slab=slab)

    def _slab(self, a: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``E``, and what a squared row length of 1 adds to the slab's term."""
        energy = self.log_odds * temperature - a.square() / 2
        if self.held:
            r = gate(energy.detach(), temperature)
            return r * a, temperature * r + r * (1 - r) * a.square() / 2
        r = gate(energy, temperature)
        return r * a, temperature * (r - slope(energy, temperature) * a.square())

    def _responsibilities(self, a: Tensor) -> Tensor:
        temperature = self._at(a)
        return gate(self.log_odds * temperature - a.square() / 2, temperature)

    def _at(self, a: Tensor) -> Tensor:
        return self.temperature.unsqueeze(-2) if self.temperature.dim() > 1 else self.temperature

    @torch.no_grad()
    def steer(self, factor: Tensor) -> Tensor:
        """Set the temperature to a multiple ``(R,)`` of its start; return it, shape ``(R,)``."""
        self.temperature.copy_(self.initial * factor.view(self.initial.shape))
        return self.temperature.flatten().clone()

    @torch.no_grad()
    def place_biases(self, x: Tensor, share: float) -> None:
        """Set the biases of a tied dictionary, and the temperature.

        At this temperature, a share of the activations of samples ``(N, D)`` is not 0.
        """
        super().place_biases(x, share)
        origin = 0 if self._origin is None else self._origin
        least = upper_quantile(self.encoder.linear, x - origin, share)
        if least > 0:
            self.temperature.copy_(least.square() / (2 * (self.log_odds - LEAST_ODDS)))
            self.initial.copy_(self.temperature)


def gate(energies: Tensor, temperature: Tensor | float) -> Tensor:
    """Return the responsibilities of energies: 1 from ``-3 T`` down, 0 from ``3 T`` up.

    With ``s = 1/2 - e / (6 T)`` between 0 and 1, it is ``s^2 (3 - 2 s)``. At ``e = 0`` it has the
    value and slope of ``sigmoid(-e / T)``, and it ends where the sigmoid has 0.05 left.
    """
    s = _share(energies, temperature)
    return s.square() * (3 - 2 * s)


def slope(energies: Tensor, temperature: Tensor | float) -> Tensor:
    """Return the derivative of ``gate`` by the energies, ``-s (1 - s) / T``."""
    s = _share(energies, temperature)
    return -s * (1 - s) / temperature


def free_energy(energies: Tensor, temperature: Tensor | float) -> Tensor:
    """Return ``U(e)``, the integral of ``gate`` over the energies from infinity on.

    It is ``e`` from ``-3 T`` down, 0 from ``3 T`` up, and ``-3 T s^3 (2 - s)`` between them. It
    stands for ``-T log(1 + exp(-e / T))``, a log-sum-exp of a unit that is on or off.
    """
    s = _share(energies, temperature)
    below = (energies + 3 * temperature).clamp(max=0)
    return below - 3 * temperature * s.pow(3) * (2 - s)


def _share(energies: Tensor, temperature: Tensor | float) -> Tensor:
    return (0.5 - energies / (6 * temperature)).clamp(0, 1)
