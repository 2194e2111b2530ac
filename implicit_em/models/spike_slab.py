"""Units that are each on or off: energies that see the data, and no decoder."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from implicit_em.base.errors import ConfigError
from implicit_em.base.values import check_number, check_word
from implicit_em.codes import Code, Layer, at_units
from implicit_em.models.declarations import Steered
from implicit_em.models.dictionary import Dictionary
from implicit_em.models.jump_relu import JumpReLU
from implicit_em.models.linear import SharedInput, in_dtype_of
from implicit_em.models.sweeps import Inferred, Swept

LEAST_ODDS = 3.0
"""Log odds at which a unit without evidence, ``z <= 0``, has the responsibility 0."""
PLACED = 2**24
"""Largest number of activations whose quantile gives the temperature at the start."""


class SpikeSlab(Swept):
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
    ``slab`` of the losses. As T falls and ``lambda T`` is held, the model becomes a JumpReLU with
    one threshold for all units. The relatives are the spike-and-slab RBM (Courville 2011) and score
    matching as an autoencoder (Swersky 2011).

    F belongs to no normalised density, so there is no likelihood.

    With several sweeps, the energies of a sweep hear the code of the sweep before; see ``Swept``.
    Their free energy is another function of all r and c, which ``free_energy`` does not compute.

    Samples may differ much in length, as vectors from inside language models do. With one
    temperature for all, the long ones would have most of the active units. So a model is ``scaled``
    by default: ``x - m`` is divided by its own root mean square s before anything else, and ``E``
    is multiplied by s. The identities of F then hold for ``(x - m) / s``. For c > 0, the code of
    ``m + c (x - m)`` is c times the code of x. The reconstruction is ``W^T E + m``. A training step
    holds m and s fixed in the encoder, so m learns as the decoder's bias alone.

    Args:
        in_features: width D of the input.
        hidden: number of units K.
        temperature: T at the start, in units of a squared pre-activation; ``model.l0`` steers it.
        log_odds: ``lambda``, above 3. A unit is half on at ``z^2 = 2 lambda T``, off from ``z^2 = 2
            (lambda - 3) T`` down, and fully on from ``2 (lambda + 3) T`` up.
        held: whether a step holds the responsibilities fixed. If not, the step is score matching
            of F itself, whose gradient goes through them.
        scaled: whether each sample, less m, is divided by its own root mean square.
        kwargs: further arguments of ``Swept``; its activation must be ReLU. Without
            ``subtract_bias``, the encoder takes ``x`` in place of ``x - m``.

    Raises:
        ValueError: if an option is out of its range, the activation is another, or ``tied`` is
            given as false.
    """

    takes_stacks = takes_parts = steps_sparsely = True
    settings: ClassVar[tuple[str, ...]] = ("temperature",)
    steered = Steered("temperature", base="initial")
    provides: ClassVar[tuple[str, ...]] = (*Swept.provides, "slab")
    temperature: Tensor
    initial: Tensor

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        *,
        temperature: float = 0.1,
        log_odds: float = 100.0,
        held: bool = True,
        scaled: bool = True,
        **kwargs: Any,
    ) -> None:
        check_word("tied", kwargs.pop("tied", True), (True,))
        check_word("scaled", scaled, (True, False))
        super().__init__(in_features, hidden, tied=True, **kwargs)
        if not isinstance(self.encoder.activation, nn.ReLU):
            raise ConfigError(f"activation={self.encoder.activation}: allowed is relu")
        check_number("temperature", temperature, lambda x: x > 0, "finite numbers above 0")
        check_number("log_odds", log_odds, lambda x: x > LEAST_ODDS, "finite numbers above 3")
        check_word("held", held, (True, False))
        if self.refit:
            check_word("held", held, (True,), " with refit")
        self.log_odds = log_odds
        self.held = held
        self.scaled = scaled
        self.register_buffer("temperature", torch.tensor([float(temperature)]))
        self.register_buffer("initial", self.temperature.clone())

    def keep(self, proposals: Tensor | Layer, sweep: int, reading: bool) -> Tensor | Code:
        """Return the proposals that a sweep keeps: all whose responsibility is above 0."""
        if isinstance(proposals, Tensor):
            return proposals
        least = (2 * (self.log_odds - LEAST_ODDS) * self.temperature).sqrt()
        return proposals.keep(lambda z: z > least)

    def shares(self, kept: Tensor, reading: bool) -> Tensor:
        """Return the responsibilities r, which a training step may hold fixed."""
        r = gate(self._energies(kept), self._at())
        return r.detach() if self.held and not reading else r

    def coded(self, inferred: Inferred) -> Tensor | Code:
        """Return the code ``E = r c`` of samples that are scaled already."""
        return _of_both(lambda a, c: c * self.shares(a, reading=True), inferred)

    def encode(self, x: Tensor | SharedInput) -> Tensor:
        """Return the code ``E = r a``, shape ``(..., K)``, of inputs ``(..., D)``."""
        x, scale = self._scaled(x)
        return _times(super().encode(x), scale)

    def energies(self, x: Tensor) -> Tensor:
        """Return the energies ``e`` of the units when they are on, shape ``(..., K)``."""
        return self._energies(self.inferred(self._scaled(x)[0], reading=True).kept)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Return ``r = dF/de``, shape ``(..., K)``: how far each unit is on."""
        return gate(self.energies(x), self.temperature)

    def free_energy(self, x: Tensor) -> Tensor:
        """Return ``F(x)``, shape ``(...)``, of inputs ``(..., D)``; ``F(x / s)`` if scaled.

        Raises:
            ValueError: if the model has more than one sweep, or a refit.
        """
        if self.swept:
            self._refuse_sweeps("the free energy of several sweeps is not one of x alone")
        moved = self._scaled(x)[0] if self.scaled else x - self.decoder.bias
        units = free_energy(self.energies(x), self.temperature)
        return moved.square().sum(-1) / 2 + units.sum(-1)

    def training_outputs(self, x: Tensor | SharedInput) -> dict[str, Tensor]:
        """Return the tensors of a training step, with the terms of the slab."""
        return self._step(x, None)

    def sparse_outputs(self, x: Tensor, most: int) -> dict[str, Tensor | Code]:
        """Return the tensors of a training step; see ``Encoder.sparse_outputs``."""
        return self._step(x, most)

    def _step(self, x: Any, most: int | None) -> dict[str, Any]:
        x, scale = self._scaled(x)
        inferred, options = self.inferred(x, most), (self._at(), self.log_odds, self.held)
        if self.refit:
            code, slab = _of_both(self._refitted, inferred)
        else:
            code, slab = at_units(lambda a: _Step.apply(a, *options), inferred.kept)
        return self._outputs(_times(code, scale), slab=_times(_times(slab, scale), scale))

    def _refitted(self, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the code, and what each unit adds to the term ``slab``, of refitted amplitudes."""
        r = self.shares(a, reading=False)
        return r * c, self._at() * r + r * (1 - r) * c.square() / 2

    @property
    def _origin(self) -> Tensor | None:
        """What is subtracted from inputs, unless ``_scaled`` subtracts it."""
        return None if self.scaled else super()._origin

    def _scaled(self, x: Any) -> tuple[Any, Any]:
        """Return samples divided by their root mean squares, and these divisors ``(..., 1)``.

        The bias is subtracted first, if it is subtracted at all.
        """
        if not self.scaled:
            return x, None
        if isinstance(x, SharedInput):
            if not self.subtract_bias:
                batches, scales = self._scaled(x.batches)
                return SharedInput(batches, x.counts), SharedInput(scales, x.counts).expanded()
            x = x.expanded()  # replicas that share samples have origins of their own
        exact = in_dtype_of(self.weight, x)
        if self.subtract_bias:
            middle = self.decoder.bias.detach()
            exact = exact - (middle if middle.dim() == 1 else middle.unsqueeze(-2))
        scale = exact.square().mean(-1, keepdim=True).sqrt()
        return exact / scale.clamp(min=torch.finfo(scale.dtype).tiny), scale

    def _energies(self, a: Any) -> Tensor:
        return self.log_odds * self._at() - a.square() / 2

    def _at(self) -> Tensor:
        """Return the temperature, to go with activations ``(..., K)``, also of a stack."""
        return self.temperature if self.temperature.dim() == 1 else self.temperature.unsqueeze(-2)

    @torch.no_grad()
    def place_biases(self, x: Tensor, share: float) -> None:
        """Set the biases of a tied dictionary, and the temperature.

        At this temperature, a share of the codes of samples ``(N, D)`` is not 0, at most half of
        the pre-activations above 0.
        """
        x, _ = self._scaled(x)
        super().place_biases(x, share)
        a = Dictionary.encode(self, x[:: -(-len(x) * len(self.weight) // PLACED)])
        positive = a[a > 0]
        if len(positive):
            count = min(round(share * a.numel()), len(positive) // 2)
            least = positive.kthvalue(len(positive) - count).values
            self.temperature.copy_(least.square() / (2 * (self.log_odds - LEAST_ODDS)))
            self.initial.copy_(self.temperature)

    @torch.no_grad()
    def hard(self) -> JumpReLU:
        """Return the model in which a unit is on, ``E_j = z_j``, if ``r_j`` exceeds 1/2, else off.

        It is the limit of T towards 0 in which ``lambda T`` stays. It does not scale samples: for a
        scaled model, it is right on samples whose root mean square is 1.

        Raises:
            ValueError: if the model has more than one sweep, or a refit.
        """
        if self.swept:
            self._refuse_sweeps("no JumpReLU has the code of several sweeps")
        units, width = self.weight.shape
        own = ("unit_columns", "subtract_bias", "middle", "tied")
        options: dict[str, Any] = {name: getattr(self, name) for name in own}
        with torch.device(self.weight.device):
            model = JumpReLU(width, units, k=units, **options)
        model = model.to(self.weight.dtype)
        threshold = (2 * self.log_odds * self.temperature).sqrt()
        state = {n: v for n, v in self.state_dict().items() if n not in ("temperature", "initial")}
        model.load_state_dict({**state, "log_threshold": threshold.log().expand(units)})
        return model.train(self.training)


def _of_both(function: Callable[[Any, Any], Any], inferred: Inferred) -> Any:
    """Apply an elementwise function to what is kept and its amplitudes, also of codes."""
    kept: Any = inferred.kept
    amplitudes: Any = inferred.amplitudes
    if isinstance(kept, Code):
        return kept.map(lambda a: function(a, amplitudes.values_N))
    return function(kept, amplitudes)


def _times(values: Any, scale: Tensor | None) -> Any:
    """Return activations ``(..., B, K)``, or a code, times a number of each sample."""
    if scale is None:
        return values
    if isinstance(values, Code):
        own_N = scale.flatten()[values.pattern.row_N]
        return Code(values.values_N * own_N, values.pattern)
    return values * scale


def gate(energies: Tensor, temperature: Tensor | float) -> Tensor:
    """Return the responsibilities of energies: 1 from ``-3 T`` down, 0 from ``3 T`` up.

    With ``s = 1/2 - e / (6 T)`` between 0 and 1, it is ``s^2 (3 - 2 s)``. At ``e = 0`` it has the
    value and slope of ``sigmoid(-e / T)``, and it ends where the sigmoid has 0.05 left. Its
    derivative is ``-s (1 - s) / T``.
    """
    s = _share(energies, temperature)
    return s.square() * (3 - 2 * s)


def free_energy(energies: Tensor, temperature: Tensor | float) -> Tensor:
    """Return ``U(e)``, the integral of ``gate`` over the energies from infinity on.

    It is ``e`` from ``-3 T`` down, 0 from ``3 T`` up, and ``-3 T s^3 (2 - s)`` between them. It
    stands for ``-T log(1 + exp(-e / T))``, a log-sum-exp of a unit that is on or off.
    """
    s = _share(energies, temperature)
    between = -3 * temperature * s.pow(3) * (2 - s)
    return torch.where(energies < -3 * temperature, energies, between)


def _share(energies: Tensor, temperature: Tensor | float) -> Tensor:
    return (0.5 - energies / (6 * temperature)).clamp(0, 1)


class _Step(Function):
    """``E = r a`` of a step, and what each unit adds to the term ``slab`` for a row of length 1.

    If r is held fixed, a unit adds ``T r + r (1 - r) a^2 / 2``. Otherwise, a unit adds T times the
    derivative of E by z, ``T r + s (1 - s) a^2``. Inside of the gate, s has the slope ``a / 6 T``.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, temperature: Tensor, log_odds: float, held: bool
    ) -> tuple[Tensor, Tensor]:
        s = _share(log_odds * temperature - a.square() / 2, temperature)
        r, between = s.square() * (3 - 2 * s), s * (1 - s)
        if held:
            variance = r * (1 - r)
            ctx.save_for_backward(r, variance * a)
            return r * a, temperature * r + variance * a.square() / 2
        spread = between * a.square()
        inside = (between > 0) * (1 - 2 * s) * a / (6 * temperature)
        ctx.save_for_backward(r + spread / temperature, 3 * between * a + inside * a.square())
        return r * a, temperature * r + spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_code, of_slab = ctx.saved_tensors
        return grads[0] * of_code + grads[1] * of_slab, None, None, None
