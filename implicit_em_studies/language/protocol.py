"""The protocol of the study of language models, as ``conf/language.yaml`` fixes it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from implicit_em_studies.shared.protocol import Distinct, Protocol, Some, refuse_others

L0 = "model.l0"
HARVEST, CAUSAL, NO_VERDICT = "harvest", "causal", "no_verdict"
"""Keys of a part: overrides of its harvest, whether the language model is causal, and the L0 that
are shown and count for no target.
"""
TUNED = ("fvu", "ridge_fvu", "l0", "silent_units", "final_loss")
"""Entries of ``metrics.json`` in the table of the grids."""
REACHED = "l0_reached"
"""Entry of ``metrics.json`` that tells whether a run ends near its L0."""
MEASURES = {
    "variance_explained": "Variance explained by the family's own decoder",
    "ridge_variance_explained": "Variance explained by a ridge decoder",
    "excess_ce": "Excess cross-entropy inside the model",
    "kl": "KL divergence inside the model",
}
"""Titles of the measures, the first of which comes first everywhere."""
FVU = "fvu"
LOSSES = ("excess_ce", "kl", FVU)
"""Measures of which less is better; families are compared by their ratios."""


class Tokens(BaseModel):
    """Numbers of tokens; each is explained in ``conf/language.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fitted: Annotated[int, Field(ge=2)]
    probed: Annotated[int, Field(ge=2)]
    losses: PositiveInt
    read: PositiveInt = 5000


class Learning(BaseModel):
    """Learning curves; each field is explained in ``conf/language.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    families: Some[str]
    power: float
    parts: dict[str, dict[PositiveInt, Some[NonNegativeInt]]]


class LanguageProtocol(Protocol):
    """What is trained on which model's activations; ``conf/language.yaml`` explains each field."""

    file = "language.yaml"
    nested = ("parts", "grids")
    measures: ClassVar = MEASURES
    set_elsewhere: ClassVar = {
        "model.hidden": "parts.NAME.model.hidden",
        "seed": "seeds",
        L0: "l0, tuned_at",
    }
    restricted = ("families", "permuted")

    parts: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    l0: Some[PositiveInt]
    tuned_at: Some[PositiveInt]
    also_over: Distinct[str] = Field(default_factory=list)
    seeds_of: dict[str, Some[int]] = Field(default_factory=dict)
    halved: Distinct[str] = Field(default_factory=list)
    permuted: Distinct[str]
    source: str
    learning: Learning | None = None
    probed_sets: Distinct[str] = Field(default_factory=list)
    read_sweeps: Distinct[PositiveInt] = Field(default_factory=list)
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
        if len(self.l0) < 2:
            raise ValueError(f"l0={self.l0}: must be two or more, which make a curve")
        refuse_others("tuned_at", self.tuned_at, self.l0)
        refuse_others("permuted", self.permuted, self.families)
        for number, target in enumerate(self.targets):
            refuse_others(f"targets[{number}].places", target.places, list(self.parts))
        if self.learning:
            refuse_others("learning.families", self.learning.families, list(self.grids))
            refuse_others("learning.parts", self.learning.parts, list(self.parts))
        for key in ("also_over", "halved", "seeds_of"):
            refuse_others(key, getattr(self, key), list(self.grids))
        return self

    @property
    def levels(self) -> Sequence[Mapping[str, Any]]:
        """The numbers of active units, from the smallest to the largest."""
        return [{L0: l0} for l0 in sorted(self.l0)]

    @property
    def tuned_levels(self) -> Sequence[Mapping[str, Any]]:
        """The numbers of active units at which settings are chosen."""
        return [{L0: l0} for l0 in self.tuned_at]

    def seeds_for(self, family: str) -> Sequence[int]:
        """Return the seeds of a family's finals."""
        return self.seeds_of.get(family, self.seeds)

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
        own = (HARVEST, CAUSAL, NO_VERDICT)
        settings = {key: value for key, value in self.parts[part].items() if key not in own}
        if family in self.halved:
            settings["model.hidden"] //= 2
        return settings

    def judged_at(self, part: str) -> list[int]:
        """Return the L0 of a part that count for its targets."""
        return [l0 for l0 in sorted(self.l0) if l0 not in self.parts[part].get(NO_VERDICT, ())]


class ExplainingProtocol(LanguageProtocol):
    """The same of codes of several sweeps; ``conf/explaining_away.yaml`` explains each field."""

    file = "explaining_away.yaml"
    measures: ClassVar = MEASURES | {FVU: "Variance that the family's own decoder leaves"}
