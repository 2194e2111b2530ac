"""Control of sparsity: a factor on weights of loss terms that leads L0 to a target."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from implicit_em.engine.rounding import each_alone

MOMENTUM = 0.05
"""Weight of a step in the running mean of L0: about 20 batches even out their noise."""
LARGEST_ERROR = 2.0
"""Largest error in log units that counts: a layer that falls silent must not wind the factor up."""
RATE = 0.01
"""Change of the log factor in a step, for an error of 1: slower than the units respond."""
GAIN = 0.5
"""Part of the error that acts at once; it damps the swings of the integral."""
WIDEST = 9.0
"""Largest log factor that the integral reaches, about 8,000 times the weight."""
WARM = 0.02
"""Share of the training in which the factor rises from 0: features form before units turn off."""
AVERAGED = 0.6
"""Share of the training from which on the integral is averaged; it has settled by then."""
HOLD = 0.85
"""Share of the training from which on the factor is constant: the last steps have one objective."""

START_DENSITY = 2.0
"""Density at the start divided by that of the target: to turn units off is easier than on."""
MOST_DENSE = 0.5
"""Largest share of the samples that activates a unit at the start."""
START_SAMPLES = 10_000
"""Number of training samples that place the biases: a quantile needs no more."""


class State(NamedTuple):
    """What the law remembers; shape ``()`` each, or ``(R,)`` in a stack."""

    running: Tensor
    """Exponential mean of L0 over the steps; it starts at the target."""
    integral: Tensor
    """Log of the factor, but for the part that acts at once."""
    total: Tensor
    """Sum of the integral over the steps from ``AVERAGED`` to ``HOLD``."""
    steps: Tensor
    """Number of these steps."""


def law(state: State, l0: Tensor, target: Tensor, progress: Tensor) -> tuple[State, Tensor]:
    """Return the next state, and the factor of a step.

    The factor is ``exp(integral + GAIN * error)`` with ``error = log(running / target)``, and
    the integral adds up ``RATE * error``. From ``HOLD`` on, it is the exponential of the mean
    integral before.

    Args:
        state: state before the step.
        l0: mean number of active units of a sample in the batch.
        target: number that it should be.
        progress: share of the training before this step, in [0, 1].
    """
    rising = (progress / WARM).clamp(max=1)
    held = progress >= HOLD
    running = state.running + MOMENTUM * (l0 - state.running)
    error = each_alone(torch.log, running / target).clamp(-LARGEST_ERROR, LARGEST_ERROR)
    moved = (state.integral + RATE * rising * error).clamp(-WIDEST, WIDEST)
    integral = torch.where(held, state.integral, moved)
    averaged = (progress >= AVERAGED) & ~held
    total = state.total + averaged * integral
    steps = state.steps + averaged
    mean = torch.where(steps > 0, total / steps.clamp(min=1), integral)
    exponent = torch.where(held, mean, integral + GAIN * error)
    return State(running, integral, total, steps), rising * each_alone(torch.exp, exponent)


class SparsityControl(nn.Module):
    """Controller of one run's L0, or of those of a stack; its state lies in float64 buffers.

    Args:
        target: mean number of active units in a sample that the training should lead to.
    """

    target: Tensor

    def __init__(self, target: float) -> None:
        super().__init__()
        start = State(*(torch.tensor(value, dtype=torch.float64) for value in (target, 0, 0, 0)))
        for name, value in start._asdict().items():
            self.register_buffer(name, value)
        self.register_buffer("target", start.running.clone(), persistent=False)

    @torch.no_grad()
    def update(self, l0: Tensor, progress: Tensor) -> Tensor:
        """Take a step of ``law``, and return the factor; all have the shape of the state."""
        before = State(*(getattr(self, name) for name in State._fields))
        after, factor = law(before, l0.double(), self.target, progress)
        for old, new in zip(before, after, strict=True):
            old.copy_(new)
        return factor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the buffers to another device, and keep their precision."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def start_near(target: float, model: Any, x: Tensor) -> None:
    """Place the biases of a new model so that its L0 starts above a target.

    Args:
        target: number of active units in a sample that the training should lead to.
        model: an ``Encoder`` or a ``SparseAutoencoder``.
        x: training samples, shape ``(N, D)``.
    """
    share = min(MOST_DENSE, START_DENSITY * target / model.weight.shape[-2])
    model.place_biases(x, share)
