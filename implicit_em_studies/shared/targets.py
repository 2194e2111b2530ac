"""Targets of a study: what its families have to show, fixed before the runs, and the verdicts."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd
from pydantic import BaseModel, ConfigDict

from implicit_em_studies.shared.claims import Claims

MISSED = "missed"
TARGETS = Claims("target", ("met", "not judged", MISSED))
"""How verdicts on targets are written; the targets themselves stand in the study's protocol."""


class Asked(BaseModel):
    """What a protocol asks of families."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Verdict(NamedTuple):
    """Whether a target is met.

    Args:
        statement: what is claimed.
        target: when the target is met.
        measured: the figures that decide.
        met: ``None`` if they are not complete.
        required: whether the study fails if the target is missed; else it asks a question.
    """

    statement: str
    target: str
    measured: str
    met: bool | None
    required: bool = True

    @property
    def outcome(self) -> str:
        """The verdict in a word."""
        if self.met is None or self.required:
            return TARGETS.outcome(self.met, self.met is None)
        return "yes" if self.met else "no"


def judged(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Return verdicts as the table that ``TARGETS`` writes."""
    rows = [verdict._asdict() | {"verdict": verdict.outcome} for verdict in verdicts]
    return pd.DataFrame(rows, columns=[*Verdict._fields, "verdict"])
