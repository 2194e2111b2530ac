"""Which runs take sparse steps, and up to which share of active units.

A sparse step computes all pre-activations. The rest of the step goes through a code: see ``codes``.
The gradients of sparse and dense steps differ by rounding alone.
"""

from typing import Any, Literal

from torch import nn

from implicit_em.base.values import check_word
from implicit_em.codes import LEAST_UNITS
from implicit_em.models.declarations import declares

Sparse = Literal["auto", "on", "off"] | bool
LARGEST_SHARE = 1 / 16
"""Largest share of a batch's activations that are entries of a code; above it, a step is dense."""


def largest_share(sparse: Sparse, replica: Any, precision: str = "32-true") -> float:
    """Return the largest share of entries at which a step is sparse; 0 if all steps are dense.

    Args:
        sparse: ``auto`` for wide layers on a CPU, ``on`` or true, ``off`` or false.
        replica: ``BareReplica`` or ``EnergyModule``, whose model is already on its device.
        precision: precision of the Trainer.

    Raises:
        ValueError: if ``sparse`` is ``on`` for a run that takes no sparse steps, or another word.
    """
    if isinstance(sparse, bool):
        sparse = "on" if sparse else "off"
    check_word("sparse", sparse, ("auto", "on", "off"))
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


def refusal(replica: Any, precision: str) -> str | None:
    """Return why a run takes no sparse steps; ``None`` for a run that takes them."""
    model = replica.model
    if not declares(model, "steps_sparsely"):
        return f"the class {type(model).__name__} does not declare steps_sparsely = True"
    activation = getattr(model, "encoder", model).activation
    if type(activation) is not nn.ReLU:
        return f"activation {type(activation).__name__}: sparse steps need activation=relu"
    if lacking := replica.objective.without_codes:
        return f"loss term {', '.join(lacking)}: needs the marks takes_codes and takes_stacks"
    if precision not in ("32-true", "64-true"):
        return f"trainer.precision={precision}: sparse steps need 32-true or 64-true"
    return "trainer.compile=true: compiled steps are dense" if replica.compiled else None
