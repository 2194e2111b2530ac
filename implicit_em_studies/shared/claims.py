"""Claims, the criteria that decide on them, and the verdicts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd

from implicit_em.base.files import whole, write_json
from implicit_em.base.tables import markdown_table
from implicit_em_studies.shared.statistics import Estimate
from implicit_em_studies.shared.tables import records

E = TypeVar("E")
"""What a study has measured."""


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim, the figures that decided, and their meaning."""

    outcome: str
    estimate: Estimate  # of the quantity that decided, or the first of several
    measured: str  # the estimate and the other quantities that decided, as text
    why: str


@dataclass(frozen=True)
class Claim(Generic[E]):
    """A claim, and the function that judges it: its docstring is the criterion."""

    key: str
    experiment: str
    statement: str
    expected: str
    judge: Callable[[E], Finding]

    @property
    def criterion(self) -> str:
        """The criterion in words."""
        return " ".join((self.judge.__doc__ or "").split())


@dataclass(frozen=True)
class Claims(Generic[E]):
    """The claims of a study, by key.

    Args:
        expected: what the column of expected values is called.
        outcomes: the verdicts, from the best to the worst.
        amendments: claims whose criterion changed after the first full run: what it was, and why.
    """

    expected: str
    outcomes: tuple[str, str, str]
    amendments: Mapping[str, str]
    by_key: dict[str, Claim[E]] = field(default_factory=dict)

    def claim(
        self, experiment: str, statement: str, expected: str
    ) -> Callable[[Callable[[E], Finding]], Claim[E]]:
        """Make a claim of a function that judges it; the function's name is its key."""

        def register(judge: Callable[[E], Finding]) -> Claim[E]:
            claim = Claim(judge.__name__, experiment, statement, expected, judge)
            self.by_key[claim.key] = claim
            return claim

        return register

    def outcome(self, fully: Any, partly: Any = False) -> str:
        """Return the verdict of two conditions."""
        best, middle, worst = self.outcomes
        return best if fully else middle if partly else worst

    def judge(self, evidence: E, experiments: Sequence[str]) -> pd.DataFrame:
        """Return the verdict on each claim of the experiments, with the estimate that decided."""
        rows = []
        for key, claim in self.by_key.items():
            if claim.experiment not in experiments:
                continue
            finding = claim.judge(evidence)
            rows.append(
                {
                    "claim": key,
                    "experiment": claim.experiment,
                    "statement": claim.statement,
                    "criterion": claim.criterion,
                    self.expected: claim.expected,
                    "measured": finding.measured,
                    **asdict(finding.estimate),
                    "verdict": finding.outcome,
                    "why": finding.why,
                    "amended": self.amendments.get(key),
                }
            )
        return pd.DataFrame(rows)

    def in_short(self, verdicts: pd.DataFrame) -> pd.DataFrame:
        """Return the columns that are printed: what was expected and measured, and the verdict."""
        return verdicts[["statement", self.expected, "measured", "verdict"]]

    def as_markdown(self, verdicts: pd.DataFrame) -> str:
        """Return verdicts as a table: claim, what was expected, what was measured, verdict."""
        shown = self.in_short(verdicts).copy()
        shown["verdict"] = shown["verdict"].map("**{}**".format)
        shown.columns = pd.Index(["claim", self.expected, "measured [95 % interval]", "verdict"])
        return markdown_table(shown.map(lambda cell: cell.replace("|", "&#124;")))

    def write(self, verdicts: pd.DataFrame, provenance: Mapping[str, Any], directory: Path) -> None:
        """Write ``verdicts.json``, with null for a missing number, and ``verdicts.md``."""
        content = {"provenance": provenance, "verdicts": records(verdicts)}
        write_json(directory / "verdicts.json", content)
        with whole(directory / "verdicts.md") as temporary:
            temporary.write_text(self.as_markdown(verdicts) + "\n")
