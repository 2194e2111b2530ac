"""Which runs take sparse steps, and from how few active units on.

A sparse step computes the pre-activations of all units, and the rest of the step through the code:
see ``codes``. It gives the gradients of a dense step, but for rounding.
"""

from typing import Literal

from torch import nn

from implicit_em.engine.stack import Replica

Sparse = Literal["auto", "on", "off"]

LEAST_UNITS = 1024
"""Smallest number of units of a layer that takes sparse steps by itself."""
LARGEST_SHARE = 1 / 16
"""Largest share of a batch's activations that are entries of a code; above it, a step is dense."""


def largest_share(sparse: Sparse, replica: Replica, precision: str = "32-true") -> float:
    """Return up to which share of entries the steps of a run are sparse; 0 for never.

    Args:
        sparse: ``auto`` for wide layers on a CPU, ``on``, or ``off``.
        replica: the run, whose model is on its device.
        precision: that of the Trainer.

    Raises:
        ValueError: if it is ``on`` for a run that takes no sparse steps.
    """
    if sparse == "off":
        return 0.0
    if reason := refusal(replica, precision):
        if sparse == "on":
            raise ValueError(f"sparse=on: {reason}")
        return 0.0
    if sparse == "on":
        return 1.0
    weight = replica.model.weight
    takes_them = weight.shape[-2] >= LEAST_UNITS and weight.device.type == "cpu"
    return LARGEST_SHARE if takes_them else 0.0


def refusal(replica: Replica, precision: str) -> str | None:
    """Return why a run takes no sparse steps; ``None`` if it does."""
    model = replica.model
    if vars(type(model)).get("steps_sparsely") is not True:
        return f"the class {type(model).__name__} does not declare steps_sparsely = True"
    activation = getattr(model, "encoder", model).activation
    if type(activation) is not nn.ReLU:
        return f"no activation of {type(activation).__name__} is 0; allowed is activation=relu"
    if lacking := replica.objective.without_codes:
        return f"loss term {', '.join(lacking)} does not declare takes_codes and takes_stacks"
    if precision not in ("32-true", "64-true"):
        return f"not with trainer.precision={precision}; allowed are 32-true, 64-true"
    return "not with trainer.compile=true" if replica.compiled else None
