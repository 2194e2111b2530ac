"""The protocol of the study of language models, as ``conf/language.yaml`` fixes it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from implicit_em_studies.shared.protocol import Distinct, Protocol, Some, refuse_others

L0 = "model.l0"
HARVEST, CAUSAL = "harvest", "causal"
"""Keys of a part: overrides of its harvest, and whether the language model is causal."""
TUNED = ("ridge_fvu", "l0", "silent_units", "final_loss")
"""Entries of ``metrics.json`` in the table of the grids, of which one chooses."""
REACHED = "l0_reached"
"""Entry of ``metrics.json`` that tells whether a run ends near its L0."""


PRIMARY = "ridge_variance_explained"
"""Measure that the families are compared by; it was fixed before the first run."""


class Tokens(BaseModel):
    """Numbers of tokens; each is explained in ``conf/language.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fitted: Annotated[int, Field(ge=2)]
    probed: Annotated[int, Field(ge=2)]
    losses: PositiveInt


class LanguageProtocol(Protocol):
    """What is trained on which model's activations; ``conf/language.yaml`` explains each field."""

    file = "language.yaml"
    nested = ("parts", "grids")
    measures: ClassVar = {
        PRIMARY: "Variance explained by a ridge decoder",
        "variance_explained": "Variance explained by the family's own decoder",
        "ce_recovered": "Cross-entropy recovered inside the model",
    }
    set_elsewhere: ClassVar = {"model.hidden": "parts.NAME.model.hidden", "seed": "seeds"}
    restricted = ("families", "permuted")

    parts: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    l0: Some[PositiveInt]
    halved: Distinct[str] = Field(default_factory=list)
    permuted: Distinct[str]
    criterion: str
    tokens: Tokens
    resamples: PositiveInt

    @model_validator(mode="after")
    def _is_consistent(self) -> "LanguageProtocol":
        for name, part in self.parts.items():
            for key in (HARVEST, CAUSAL, "model.hidden"):
                if key not in part:
                    raise ValueError(f"parts.{name}.{key}: missing")
            if not isinstance(part[CAUSAL], bool):
                raise ValueError(f"parts.{name}.{CAUSAL}={part[CAUSAL]}: allowed: true, false")
        refuse_others("criterion", [self.criterion], TUNED)
        refuse_others(f"tuning.{L0}", [self.tuning.get(L0)], self.l0)
        for stage in ("always", "finals"):
            if L0 in getattr(self, stage):
                raise ValueError(f"{stage}.{L0}: the protocol sets it; allowed: l0")
        refuse_others("permuted", self.permuted, self.families)
        refuse_others("halved", self.halved, list(self.grids))
        return self

    @property
    def levels(self) -> Sequence[Mapping[str, Any]]:
        """The numbers of active units, from the smallest to the largest."""
        return [{L0: l0} for l0 in sorted(self.l0)]

    def deciding(self, part: str) -> dict[str, Any]:
        """Return everything that decides a part's results, beside its runs."""
        fixed = super().deciding(part)
        return {key: value for key, value in fixed.items() if key != "parts"} | {
            "part": self.parts[part]
        }

    def chosen(self, words: Sequence[str]) -> list[tuple[str]]:
        """Return the parts that words name; all if none does."""
        return [(name,) for name in self.named(words, list(self.parts), "part")]

    def settings_of(self, part: str, family: str) -> dict[str, Any]:
        """Return the settings of a family's runs in a part."""
        own = (HARVEST, CAUSAL)
        settings = {key: value for key, value in self.parts[part].items() if key not in own}
        if family in self.halved:
            settings["model.hidden"] //= 2
        return settings
