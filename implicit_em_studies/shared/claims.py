"""Claims, the criteria that decide on them, and the verdicts."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_em.base.files import whole, write_json
from implicit_em.base.tables import markdown_table
from implicit_em_studies.shared.experiment import Measured
from implicit_em_studies.shared.statistics import Estimate
from implicit_em_studies.shared.tables import records


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim.

    Args:
        outcome: the verdict.
        estimate: the quantity that decided; the first one if several did.
        measured: all quantities that decided, as text.
        why: what the quantities mean.
    """

    outcome: str
    estimate: Estimate
    measured: str
    why: str


@dataclass(frozen=True)
class Claim:
    """A claim on an experiment, in the words of the docstring of the function that judges it.

    The first paragraph is the claim, the second one its criterion. A third one begins with
    "Amended: " and says what changed after the first full run, and why.

    Args:
        judge: function of what the experiment measured.
    """

    experiment: str
    expected: str
    judge: Callable[[Any], Finding]

    @property
    def key(self) -> str:
        """Its name: the function's."""
        return self.judge.__name__

    @property
    def words(self) -> tuple[str, str, str | None]:
        """The claim, its criterion, and what changed later."""
        paragraphs = (self.judge.__doc__ or "").split("\n\n")
        statement, criterion, *amended = (" ".join(text.split()) for text in paragraphs)
        later = amended[0].removeprefix("Amended: ") if amended else None
        return statement.removesuffix("."), criterion, later


@dataclass(frozen=True)
class Claims:
    """The claims of a study, by key.

    Args:
        expected: what the column of expected values is called.
        outcomes: the verdicts, from the best to the worst.
    """

    expected: str
    outcomes: tuple[str, str, str]
    by_key: dict[str, Claim] = field(default_factory=dict)

    def claim(
        self, experiment: str, expected: str
    ) -> Callable[[Callable[[Any], Finding]], Callable[[Any], Finding]]:
        """Make a claim of a function that judges it."""

        def register(judge: Callable[[Any], Finding]) -> Callable[[Any], Finding]:
            claim = Claim(experiment, expected, judge)
            self.by_key[claim.key] = claim
            return judge

        return register

    def outcome(self, fully: Any, partly: Any = False) -> str:
        """Return the verdict of two conditions."""
        best, middle, worst = self.outcomes
        return best if fully else middle if partly else worst

    def judge(self, measured: Mapping[str, Measured]) -> pd.DataFrame:
        """Return a row for each claim on an experiment that was measured, with its verdict."""
        rows = []
        for key, claim in self.by_key.items():
            if claim.experiment in measured:
                statement, criterion, amended = claim.words
                finding = claim.judge(measured[claim.experiment])
                row = {
                    "claim": key,
                    "experiment": claim.experiment,
                    "statement": statement,
                    "criterion": criterion,
                    self.expected: claim.expected,
                    "measured": finding.measured,
                    **asdict(finding.estimate),
                    "verdict": finding.outcome,
                    "why": finding.why,
                    "amended": amended,
                }
                rows.append(row)
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
