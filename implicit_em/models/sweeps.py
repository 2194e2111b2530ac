"""Codes inferred in several sweeps: each explains what the code so far has left unexplained.

The page on explaining away derives the sweeps and names their limits
(docs/explanation/explaining-away.md).
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, Self, get_args

import torch
from torch import Tensor, nn

from implicit_em.base.errors import ConfigError
from implicit_em.base.values import check_whole, check_word
from implicit_em.codes import LEAST_UNITS, Code, Layer, Pattern, matches, memory_of
from implicit_em.models.dictionary import Dictionary
from implicit_em.models.linear import SharedInput, in_dtype_of

Through = Literal["all", "last", "held"]
READ_SHARE = 16
"""Codes are read as entries if at most one unit in so many is active."""


@dataclass(frozen=True)
class Inferred:
    """The result of an E-step; all are ``(..., B, K)``.

    Args:
        proposals: activations that the last sweep proposes, before it chooses.
        kept: the proposals that it keeps, 0 elsewhere.
        amplitudes: what is kept, or its amplitudes after a refit.
    """

    proposals: Tensor | Layer
    kept: Tensor | Code
    amplitudes: Tensor | Code


class Swept(Dictionary):
    """Dictionary whose code is inferred in sweeps over what is not yet explained.

    The encoder proposes the first activations c, and a choice keeps some of them. With each unit's
    share r, in [0, 1], the code is ``h = r c``. A further sweep looks at what the code leaves,
    ``rho = x - b_d - W_d h``, and proposes ``c + mu (W_d^T rho - (c - h))``, of which the choice
    keeps some again. The step size mu of each sample is the best one for the units that are on. No
    gradient goes through it. For r of 0 or 1, this is normalised iterative hard thresholding
    (Blumensath and Davies 2010), without its test that shrinks a step. The encoder's bias is in the
    first sweep alone: later evidence needs no correction for what other units explain.

    A refit then takes steps of conjugate gradients, which improve the amplitudes of the units that
    are on. Each step costs two products with the code. It lowers the free energy of the code with r
    held: for r of 0 or 1, half of the squared error. Amplitudes that end below 0 become 0.

    Args:
        in_features: width D of the input.
        hidden: number of hidden units K.
        sweeps: number of sweeps of a training step.
        read_sweeps: number of sweeps of ``encode``; ``None`` for ``sweeps``.
        refit: number of steps of conjugate gradients.
        through: what a training step sends its gradient through: ``all`` sweeps; the ``last``, with
            the code before it held; or none of them, so that the code is ``held`` (EM).
        kwargs: further arguments of ``Dictionary``.

    Raises:
        ValueError: if an option is out of its range, if ``through`` is not ``all`` in a model that
            is not tied, or if a model with sweeps has columns of free length, another activation
            than ReLU, or a target, or does not subtract ``b_d``.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        *,
        sweeps: int = 1,
        read_sweeps: int | None = None,
        refit: int = 0,
        through: Through = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, hidden, **kwargs)
        check_whole("sweeps", sweeps, 1)
        check_whole("read_sweeps", read_sweeps, 1, or_null=True)
        check_whole("refit", refit, 0)
        check_word("through", through, get_args(Through))
        if not self.tied:
            check_word("through", through, ("all",), " without tied=true")
        self.sweeps = sweeps
        self.read_sweeps = read_sweeps or sweeps
        self.refit = refit
        self.through = through
        self.swept = max(sweeps, self.read_sweeps) > 1 or refit > 0 or through == "held"
        if self.swept:
            self._check_swept()

    def _check_swept(self) -> None:
        """Refuse options with which later sweeps would mean something else."""
        for name in ("unit_columns", "subtract_bias"):
            if not getattr(self, name):
                self._refuse_sweeps(f"needs {name}=true, and no target")
        if not isinstance(self.encoder.activation, nn.ReLU):
            self._refuse_sweeps("needs activation=relu")

    def _refuse_sweeps(self, reason: str) -> NoReturn:
        raise ConfigError(
            f"sweeps={self.sweeps}, read_sweeps={self.read_sweeps}, refit={self.refit}: {reason}"
        )

    def first_sweep(self) -> Self:
        """Return a copy whose codes are those of the first sweep, without a refit."""
        model = deepcopy(self)
        model.sweeps, model.read_sweeps, model.refit = 1, 1, 0
        model.swept = False
        return model

    def keep(self, proposals: Tensor | Layer, sweep: int, reading: bool) -> Tensor | Code:
        """Return the proposals that a sweep keeps, and 0 for all others."""
        raise NotImplementedError

    def shares(self, kept: Tensor, reading: bool) -> Tensor:
        """Return how far each unit is on, from 0 to 1; also of the entries of a code."""
        return (kept > 0).to(kept.dtype)

    def coded(self, inferred: Inferred) -> Tensor | Code:
        """Return the code of an E-step, ``r`` times the amplitudes."""
        return inferred.amplitudes

    def encode(self, x: Any) -> Tensor:
        """Return the hidden activations ``(..., K)`` of inputs ``(..., D)``."""
        if not self._reads_entries():
            return self.coded(self.inferred(x, reading=True))  # type: ignore[return-value]
        rows_BD = in_dtype_of(self.weight, x).reshape(-1, x.shape[-1])
        most = len(rows_BD) * len(self.weight) // READ_SHARE
        code = self.coded(self.inferred(rows_BD, most, reading=True))
        dense = code.dense() if isinstance(code, Code) else code
        return dense.view(*x.shape[:-1], -1)

    def _reads_entries(self) -> bool:
        """Return whether codes are read as entries: where this is faster, and needs no gradient."""
        wide = self.weight.dim() == 2 and len(self.weight) >= LEAST_UNITS
        on_cpu = self.weight.device.type == "cpu" and self.weight.dtype.itemsize >= 4
        return self.swept and wide and on_cpu and not torch.is_grad_enabled()

    def inferred(self, x: Any, most: int | None = None, reading: bool = False) -> Inferred:
        """Infer the codes of inputs ``(..., D)``.

        Args:
            x: the inputs; those of a stack may be a ``SharedInput``.
            most: largest number of entries of a code; ``None`` for codes that are tensors.
            reading: whether to sweep as ``encode`` does, and not as a training step.
        """
        held = self.through == "held"
        with torch.set_grad_enabled(torch.is_grad_enabled() and not held):
            proposals = Dictionary.encode(self, x) if most is None else self.layer(x, most)
            kept = amplitudes = self.keep(proposals, 0, reading)
            sweeps = self.read_sweeps if reading else self.sweeps
            if sweeps == 1 and not self.refit:
                return Inferred(proposals, kept, amplitudes)
            to_explain, table = self._less_bias(x), self.decoder.weight.mT.contiguous()
            for sweep in range(1, sweeps):
                before = kept.detach() if self.through == "last" else kept
                proposals = self._proposed(to_explain, table, before, most or 0, reading)
                kept = amplitudes = self.keep(proposals, sweep, reading)
            if self.refit:
                units, c, r = self._units(table, kept, reading)
                rest = to_explain - units.decode(r * c)
                amplitudes = units.code(refitted(units, r, c, rest, self.refit))
            return Inferred(proposals, kept, amplitudes)

    def _proposed(
        self, to_explain: Tensor, table: Tensor, kept: Tensor | Code, most: int, reading: bool
    ) -> Tensor | Layer:
        """Return what the next sweep proposes."""
        units, c, r = self._units(table, kept, reading)
        rest = to_explain - units.decode(r * c)
        if isinstance(kept, Tensor):
            match = units.match(rest)
            step = best_step(units, r, c, match)
            return (c - step * (1 - r) * c + step * match).relu()
        with torch.no_grad():
            step = best_step(units, r, c, units.match(rest))
        own = units.code(c - units.spread(step) * (1 - r) * c)
        return _Proposals(self.encoder.linear, step * rest, most, table=table, own=own)

    def _units(self, table: Tensor, kept: Tensor | Code, reading: bool) -> Any:
        """Return the units of what is kept, its values, and the shares of the units."""
        if isinstance(kept, Tensor):
            r = self.shares(kept, reading)
            return _Everywhere(table), kept * (r > 0), r
        values_N = kept.values_N
        return _Entries(table, kept.pattern), values_N, self.shares(values_N, reading)

    def _less_bias(self, x: Tensor | SharedInput) -> Tensor:
        """Return what the code is to explain: inputs less ``b_d``, unless that is done already."""
        x = in_dtype_of(self.weight, x.expanded() if isinstance(x, SharedInput) else x)
        origin = self._origin
        if origin is None:
            return x
        return x - (origin if origin.dim() == 1 else origin.unsqueeze(-2))


@dataclass(frozen=True)
class _Everywhere:
    """Numbers of all units, ``(..., B, K)``.

    Args:
        table: columns of the decoder, ``(..., K, D)``.
    """

    table: Tensor

    def code(self, values: Tensor) -> Tensor:
        return values

    def decode(self, values: Tensor) -> Tensor:
        return values @ self.table

    def match(self, x: Tensor) -> Tensor:
        return x @ self.table.mT

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the units of each sample, ``(..., B, 1)``."""
        return values.sum(-1, keepdim=True)

    def spread(self, of_samples: Tensor) -> Tensor:
        """Return one number of each sample, ``(..., B, 1)``, in a shape that goes with units."""
        return of_samples


@dataclass(frozen=True)
class _Entries:
    """The same for the entries ``(N,)`` of a code alone."""

    table: Tensor
    pattern: Pattern

    def code(self, values: Tensor) -> Code:
        return Code(values, self.pattern)

    def decode(self, values: Tensor) -> Tensor:
        return self.code(values) @ self.table

    def match(self, x: Tensor) -> Tensor:
        return matches(self.table, x, self.pattern)

    def sum(self, values: Tensor) -> Tensor:
        return self.code(values).sum(-1).mT

    def spread(self, of_samples: Tensor) -> Tensor:
        return of_samples[:, 0].index_select(0, self.pattern.row_N)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Proposals(Layer):
    """Proposals of a sweep: those of a layer without bias, plus those of the units themselves.

    Args:
        table: columns of the decoder, ``(K, D)``.
        own: code that is added.
    """

    table: Tensor
    own: Code

    @torch.no_grad()
    def _of(self, samples: slice) -> Tensor:
        x_BD, pattern = self.x_BD[samples], self.own.pattern
        out = torch.mm(x_BD, self.table.mT, out=memory_of(self.linear, len(x_BD)))
        some, first = slice(None), 0
        if len(x_BD) < len(self.x_BD):  # otherwise, the host need not ask where they begin
            first = samples.start * pattern.shape[1]
            some = slice(*pattern.starts[[samples.start, samples.stop]].tolist())
        flat_N = pattern.flat_N[some] - first
        out.view(-1).index_add_(0, flat_N, self.own.values_N[some])
        return out

    def _attach(self, z: Tensor, pattern: Pattern | None) -> Tensor:
        if pattern is None:
            return self.x_BD @ self.table.mT + self.own.dense()
        if not torch.is_grad_enabled():
            return z
        return matches(self.table, self.x_BD, pattern) + self.own.at(pattern).values_N


def _slope(r: Tensor, c: Tensor, match: Tensor) -> Tensor:
    """Return minus the slope of the free energy by c, divided by r, of the units that are on.

    The free energy is ``||x - W_d r c||^2 / 2 + sum_j r_j (1 - r_j) c_j^2 / 2`` with r held, for
    columns of length 1. Its second derivative by ``c_j`` is ``r_j``, so the division makes the
    units alike.
    """
    return (match - (1 - r) * c) * (r > 0)


def _curvature(units: Any, r: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Return how a movement p of c moves the reconstruction, and the free energy's curvature."""
    moved = units.decode(r * p)
    return moved, moved.square().sum(-1, keepdim=True) + units.sum(r * (1 - r) * p.square())


@torch.no_grad()
def best_step(units: Any, r: Tensor, c: Tensor, match: Tensor) -> Tensor:
    """Return the step ``(..., B, 1)`` along the slope that lowers the free energy most.

    It is 1 where nothing is left to lower.
    """
    p = _slope(r, c, match)
    size, (_, curvature) = units.sum(r * p.square()), _curvature(units, r, p)
    return torch.where(curvature > 0, size / curvature, 1)


def refitted(units: Any, r: Tensor, c: Tensor, rest: Tensor, steps: int) -> Tensor:
    """Return amplitudes that conjugate gradients improve, with the shares r held.

    A sample whose slope has become rounding error takes no further step.

    Args:
        units: the units that r and c belong to.
        r: their shares.
        c: their amplitudes.
        rest: what the code ``r c`` leaves of the samples, ``(..., B, D)``.
        steps: number of steps.
    """
    p: Any = None
    size: Any = None
    least: Any = None
    for _ in range(steps):
        slope = _slope(r, c, units.match(rest))
        before, size = size, units.sum(r * slope.square())
        if p is None:
            p, least = slope, size.detach() * torch.finfo(size.dtype).eps
        else:
            p = slope + units.spread(_ratio(size, before, least)) * p
        moved, curvature = _curvature(units, r, p)
        step = torch.where(size > least, _ratio(size, curvature, 0), 0)
        c = c + units.spread(step) * p
        rest = rest - step * moved
    return c.relu() * (r > 0)


def _ratio(above: Tensor, below: Any, least: Any) -> Tensor:
    """Return a ratio, and 0 where the divisor is not larger than the least."""
    large = below > least
    return torch.where(large, above / torch.where(large, below, 1), 0)
