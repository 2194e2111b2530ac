"""Control of sparsity: a factor on weights, or on a temperature, leads L0 to a target."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from implicit_em.engine.rounding import each_alone
from implicit_em.models import SparseAutoencoder

MOMENTUM = 0.1
"""Weight of a step in the mean of L0 that held-out samples are compared with. Ten batches even out
the noise."""
LARGEST_ERROR = math.log(4)
"""Largest error that counts: the integral moves a weight by at most 1.4 % in a step at first, later
15 %."""
FIRST_RATE = 0.01
"""Change of the log factor in a step, for an error of 1, at first, while features form."""
LAST_RATE = 0.1
"""Change of the log factor in a step, for an error of 1, at the end: units then respond fast, and
the rest of the error must go."""
GAIN = 1.3
"""Factor of the error that acts at once; it damps the swings of the integral."""
PROMPT_RATE = 0.2
"""Change of the log factor in a step, for an error of 1, where L0 follows at once. L0 does not
swing if it falls by the fifth power of the factor or less."""
WIDEST = 16.0
"""Largest log factor of the integral: weights may be wrong by nearly seven orders of magnitude."""
HOLD = 0.995
"""Share of the training from which on the factor is constant: the last steps have one objective.
A run of fewer than 200 steps has no such steps."""
AVERAGING = 0.1
"""Weight of a step in the mean of the log factor, which is constant from ``HOLD`` on."""
MOST_APART = 2.0
"""Largest factor by which the L0 of held-out samples may differ from the L0 of batches."""

START_DENSITY = 2.0
"""Density of an autoencoder at its start divided by the density that the target asks for."""
MOST_DENSE = 0.5
"""Largest share of the samples that activates a unit at the start."""
START_SAMPLES = 10_000
"""Number of training samples that place the biases: a quantile needs no more."""


class State(NamedTuple):
    """What the law remembers; shape ``()`` each, or ``(R,)`` in a stack."""

    running: Tensor
    """Exponential mean of L0 over about ten steps; it starts at the target."""
    integral: Tensor
    """Log of the factor, but for the part that acts at once."""
    averaged: Tensor
    """Exponential mean of the log factor, up to ``HOLD``."""


def law(
    state: State, l0: Tensor, target: Tensor, progress: Tensor, prompt: bool = False
) -> tuple[State, Tensor]:
    """Return the next state, and the factor of a step: a proportional-integral controller.

    The factor is ``exp(integral + GAIN * error)`` with ``error = log(L0 / target)``. The
    integral adds up the errors times a rate, which rises with the square of the progress. From
    ``HOLD`` on, the factor is a geometric mean of the factors before; the latest count most.

    Args:
        state: state before the step.
        l0: mean number of active units of a sample in the batch.
        target: number that ``l0`` should be.
        progress: share of the training before this step, in [0, 1].
        prompt: whether L0 follows the factor at once, as it does a threshold and not a weight. The
            rate is ``PROMPT_RATE`` then, and no part acts at once.
    """
    holds = progress >= HOLD
    rate: Tensor | float = FIRST_RATE + (LAST_RATE - FIRST_RATE) * progress.square()
    rate, gain = (PROMPT_RATE, 0.0) if prompt else (rate, GAIN)
    running = state.running + MOMENTUM * (l0 - state.running)
    error = each_alone(torch.log, l0 / target).clamp(-LARGEST_ERROR, LARGEST_ERROR)
    integral = (state.integral + rate * error).clamp(-WIDEST, WIDEST)
    exponent = integral + gain * error
    moved = state.averaged + AVERAGING * (exponent - state.averaged)
    averaged = torch.where(holds, state.averaged, moved)
    factor = each_alone(torch.exp, torch.where(holds, averaged, exponent))
    return State(running, integral, averaged), factor


class SparsityControl(nn.Module):
    """Controller of the L0 of one run, or of each run of a stack; its state is in float64 buffers.

    Args:
        target: mean number of active units in a sample that the training should lead to.
        prompt: whether L0 follows the factor at once; see ``law``.
    """

    settings = ()
    """Attributes in which controls of a stack differ, beside buffers: none."""
    target: Tensor
    running: Tensor
    """Mean L0 of about the last ten batches."""
    ratio: Tensor
    """L0 of held-out samples divided by the L0 of batches."""

    def __init__(self, target: float, prompt: bool = False) -> None:
        super().__init__()
        self.prompt = prompt
        values = (target, 0, 0)
        start = State(*(torch.tensor(value, dtype=torch.float64) for value in values))
        for name, value in start._asdict().items():
            self.register_buffer(name, value)
        self.register_buffer("ratio", torch.ones_like(start.running))
        self.register_buffer("target", start.running.clone(), persistent=False)

    @torch.no_grad()
    def update(self, l0: Tensor, progress: Tensor) -> Tensor:
        """Take a step of ``law``, and return the factor; all have the shape of the state."""
        before = State(*(getattr(self, name) for name in State._fields))
        after, factor = law(before, l0.double(), self.target / self.ratio, progress, self.prompt)
        for old, new in zip(before, after, strict=True):
            old.copy_(new)
        return factor

    @torch.no_grad()
    def compare(self, l0: Tensor) -> None:
        """Note the L0 of held-out samples, so that the L0 of held-out samples reaches the target.

        A wide layer fits its own training samples: L0 of new samples is larger.
        """
        found = (l0.double() / self.running).nan_to_num(1).clamp(1 / MOST_APART, MOST_APART)
        self.ratio.lerp_(found, 0.5)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the buffers to another device, and keep their precision."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def start_near(target: float, model: Any, samples: Callable[[], Tensor]) -> None:
    """Place the biases of a new autoencoder so that its L0 starts above a target.

    With biases of 0, half of the units are active at first. As long as half of the units are
    active, an autoencoder learns dense features, and many dense features stay. The derived model
    starts as it is, because its ridge decoder then finds more features.

    Args:
        target: number of active units in a sample that the training should lead to.
        model: model that was just made.
        samples: function that returns training samples, shape ``(N, D)``; called for an autoencoder
            alone.
    """
    if not isinstance(model, SparseAutoencoder):
        return
    share = min(MOST_DENSE, START_DENSITY * target / model.weight.shape[-2])
    model.place_biases(samples().to(model.weight.dtype), share)
