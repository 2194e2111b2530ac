"""Targets of a study: what its families have to show, fixed before the runs, and the verdicts."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from implicit_em_studies.shared.pairs import ahead_text
from implicit_em_studies.shared.tables import name_of, rows_of

MISSED = "missed"
VERDICTS = ("met", "not judged", MISSED)
ANSWERS = ("yes", "not judged", "no")
COLUMNS = ["statement", "target", "measured", "met", "required", "verdict"]
NUMBERS = {
    "ahead": "lead",
    "high": "upper end of the 95 % interval",
}
"""Numbers of a lead that may decide, as text."""
FEW = 5
"""Largest number of places whose leads are all written; of more, those that fall short are."""


class Asked(BaseModel):
    """What is asked of families beside another.

    Args:
        of: families that are asked about.
        over: family that they are compared with.
        required: whether the study fails if the target is missed; else it asks a question.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: Annotated[list[str], Field(min_length=1)]
    over: str
    required: bool = True

    def verdict(
        self, family: str, title: str, asked: str, measured: str, met: bool | None
    ) -> dict[str, Any]:
        """Return the verdict on a family, by ``COLUMNS``; none before all places are there."""
        words = VERDICTS if self.required else ANSWERS
        verdict = dict(zip((True, None, False), words, strict=True))[met]
        statement = f"{name_of(family)} over {name_of(self.over)}: {title}"
        row = statement, asked, measured, met, self.required, verdict
        return dict(zip(COLUMNS, row, strict=True))


class Need(BaseModel):
    """What a lead has to be; ``above`` or ``at_least`` is its bound, in points.

    Args:
        by: measure of the study.
        lead: number of the lead that decides: its mean, or the upper end of its interval.
        above: bound that the number has to be above.
        at_least: bound that the number has to reach.
        places: number of places where the bound has to hold; ``None`` for the mean over all places.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str
    lead: Literal["ahead", "high"]
    above: float | None = None
    at_least: float | None = None
    places: PositiveInt | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if (self.above is None) == (self.at_least is None):
            raise ValueError("must have one of above, at_least")
        return self

    def holds(self, points: Any) -> Any:
        """Return whether numbers are within the bound; missing ones are not."""
        return points >= self.at_least if self.above is None else points > self.above

    def asked(self, places: int, unit: str) -> str:
        """Return what is asked as text, of a number of ``places`` that are called ``unit``."""
        bound = f"at least {self.at_least:g}" if self.above is None else f"above {self.above:g}"
        where = f", at {self.places} of {places} {unit}" if self.places else " on average"
        return f"{NUMBERS[self.lead]} {bound} points{where}"

    def decide(self, leads: pd.DataFrame) -> tuple[bool, str]:
        """Return whether leads are as asked, and what was measured as text."""
        points = 100 * leads[self.lead]
        if not self.places:
            mean = points.mean()
            return bool(self.holds(mean)), f"{mean:+.2f} points on average"
        held = self.holds(points)
        shown = leads if len(leads) <= FEW else leads[~held]
        texts = [f"{row.target!s}: {ahead_text(row)}" for row in shown.itertuples()]
        measured = "; ".join([f"at {held.sum()} of {len(leads)}", *texts])
        return bool(held.sum() >= self.places), measured


class Target(Asked):
    """What is asked of families in each place where they are compared.

    Args:
        need: what their leads have to be; all of it.
        parts: parts of the study whose places count together, in all of its reports; the places of
            one report if there are none.
    """

    need: Annotated[list[Need], Field(min_length=1)]
    parts: list[str] = []

    @property
    def measures(self) -> list[str]:
        """Names of the measures that decide."""
        return [need.by for need in self.need]

    def judge(
        self, family: str, leads: pd.DataFrame, titles: Mapping[str, str], places: str
    ) -> dict[str, Any]:
        """Return the verdict on a family, by ``COLUMNS``; none before all places are there.

        Args:
            family: name of the family.
            leads: the leads of all families, as ``Results.leads`` has them. A lead that is null
                counts against the family.
            titles: titles of the measures.
            places: number of all places, and what they are called.
        """
        number, _, unit = places.partition(" ")
        own = rows_of(leads, family=family, over=self.over)
        names = list(dict.fromkeys(titles[need.by] for need in self.need))
        asked, measured, held = [], [], []
        for need in self.need:
            here = rows_of(own, by=need.by)
            fulfilled, text = need.decide(here)
            title = f"{titles[need.by]}: " if len(names) > 1 else ""
            asked.append(title + need.asked(int(number), unit))
            measured.append(title + text)
            held.append(fulfilled if len(here) == int(number) else None)
        met = None if None in held else all(held)
        title = " and ".join(name[0].lower() + name[1:] for name in names)
        return self.verdict(family, title, "; ".join(asked), "; ".join(measured), met)


def judged(verdicts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return verdicts as a table."""
    return pd.DataFrame(verdicts, columns=COLUMNS)
