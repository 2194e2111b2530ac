"""What the language model loses without a unit, on the contexts that activate it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from implicit_em.base.errors import ConfigError
from implicit_em.language.effects import both_ends, causal_model
from implicit_em.language.model_files import model_of
from implicit_em.language.splicing import Moved
from implicit_em.language.steering import Steering, check
from implicit_em.trained.activity import Unit
from implicit_em.trained.reading import Trained
from implicit_em.training.progress import working
from implicit_em.viewer.seen import short

Ablations = Callable[[Unit], dict[str, Any] | None]
"""Function from a unit to what setting it to 0 changes; ``None`` for units that were not asked for,
and for dead ones.

The result has the number of ``contexts`` that were read, the number of ``tokens`` there on which
the unit is active, and the change of the ``loss`` in nats for each predicted token. ``more`` and
``less`` are the next tokens that become more and less likely behind the active ones: their ids, and
the changes of their probabilities.
"""


def ablations_of(found: Trained, lm: str | None, units: Sequence[int]) -> Ablations:
    """Return the ablations of some units of a trained model; each is measured once.

    Raises:
        ConfigError: if a unit is out of range, or the data are from no causal language model.
    """
    check(found.model, dict.fromkeys(units, 0.0), "set")
    settings = model_of(found.inside("ablate").store.manifest, lm)
    steering, known = Steering.of(found), dict[int, dict[str, Any] | None]()
    if (model := causal_model(settings)) is None:
        raise ConfigError(f"ablate: lm={settings.name} is not causal, and predicts nothing")

    def ablated(unit: Unit) -> dict[str, Any] | None:
        if unit.number in units and unit.number not in known:
            with working(f"ablating feature {unit.number}"):
                moved = steering.ablated(model, unit.number, torch.from_numpy(unit.samples_E))
            known[unit.number] = moved and _shown(moved)
        return known.get(unit.number)

    return ablated


def _shown(moved: Moved) -> dict[str, Any]:
    more, less = both_ends(moved.chances_V)
    counts = {"contexts": moved.contexts, "tokens": moved.tokens, "loss": short(moved.loss)}
    return {**counts, "more": more, "less": less}
