"""Targets of a study: what its families have to show, fixed before the runs, and the verdicts."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from implicit_em_studies.shared.tables import name_of

MISSED = "missed"
VERDICTS = ("met", "not judged", MISSED)
COLUMNS = ["statement", "target", "measured", "met", "required", "verdict"]


class Target(BaseModel):
    """What is asked of families beside another, at so many places of each part of a study.

    Args:
        of: families that are asked about.
        over: family that they are compared with.
        by: measure of the study.
        above: bound of the lead in points, of a share.
        below: bound of the ratio to the other family's loss, of a loss.
        places: number of places at which the bound has to hold, by the part that it counts in.
        required: whether the study fails if the target is missed; else it asks a question.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: Annotated[list[str], Field(min_length=1)]
    over: str
    by: str
    above: float | None = None
    below: Annotated[float, Field(gt=0)] | None = None
    places: Annotated[dict[str, PositiveInt], Field(min_length=1)]
    required: bool = True

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("must have one of above, below")
        return self

    @property
    def bound(self) -> float:
        """The bound in the units of a lead: a share, or the logarithm of a ratio."""
        return self.above / 100 if self.above is not None else -float(np.log(self.below or 1))

    def asked(self, part: str, places: Sequence[int], unit: str) -> str:
        """Return the bound as text, and at how many places of a part it has to hold."""
        points = "" if self.above is None else f"lead above {self.above:g} points"
        bound = points or f"ratio below {self.below:g}"
        where = ", ".join(map(str, places))
        return f"{bound}, at {self.places[part]} of {len(places)} {unit} ({where})"

    def verdict(
        self, family: str, title: str, asked: str, measured: str, met: bool
    ) -> dict[str, Any]:
        """Return the verdict on a family, by ``COLUMNS``."""
        words = ("met", MISSED) if self.required else ("yes", "no")
        statement = f"{name_of(family)} over {name_of(self.over)}: {title}"
        row = statement, asked, measured, met, self.required, words[not met]
        return dict(zip(COLUMNS, row, strict=True))


def judged(verdicts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return verdicts as a table."""
    return pd.DataFrame(verdicts, columns=COLUMNS)
