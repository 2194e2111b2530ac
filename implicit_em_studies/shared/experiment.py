"""What an experiment of a study with verdicts consists of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from implicit_em.base.files import whole
from implicit_em.base.tables import markdown_table
from implicit_em_studies.shared.protocol import digest
from implicit_em_studies.shared.runs import Run

Tables = Mapping[str, pd.DataFrame]
"""What an experiment measured, by name."""
Present = Callable[[pd.DataFrame], pd.DataFrame]
"""A function that makes the numbers of a table readable."""
Measured = Mapping[str, Any]
"""The tables of an experiment, and what else its figures and criteria need, by name."""

# Characters that LaTeX would not print as they are.
LATEX = str.maketrans(
    {character: "\\" + character for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


@dataclass(frozen=True)
class Printed:
    """A table that the report shows, and that is also written in Markdown and in LaTeX.

    Args:
        present: function that makes the table's numbers readable.
        names: number of columns that name the rows.
    """

    caption: str
    present: Present
    names: int

    def write(self, table: pd.DataFrame, file: Path, trial: str | None) -> None:
        """Write the table in Markdown and in LaTeX (booktabs); ``file`` has no suffix."""
        shown = self.present(table)
        title = f"[{trial}] " * bool(trial) + self.caption
        latex = shown.to_latex(
            index=False,
            escape=True,
            caption=title.translate(LATEX),
            label=f"tab:{file.name}",
            column_format="l" * self.names + "r" * (shown.shape[1] - self.names),
        )
        for symbol, command in (("±", r"$\pm$"), (" -", " $-$"), ("–", "--")):
            latex = latex.replace(symbol, command)
        texts = {"md": f"**{title}**\n\n{markdown_table(shown)}\n", "tex": latex}
        for kind, text in texts.items():
            with whole(file.with_suffix(f".{kind}")) as temporary:
                temporary.write_text(text)


@dataclass(frozen=True)
class Experiment:
    """An experiment that ends with verdicts.

    Args:
        title: heading of the experiment's section in the report.
        sweeps: names of the experiment's sweeps, in the study's file or in ``conf/experiment``.
        protocol: ``digest_among`` of the protocol's runs. Other runs make a trial.
        measure: function of the experiment's complete runs.
        printed: tables that the report shows and that are written for print, by name.
        shown: functions that make a table readable that the report shows, by its name.
        pictures: functions that draw a figure from what was measured, by name. The captions of
            figures and of tables that are only shown stand in the report's template.
        unwritten: names of what was measured and is not written as a table.
    """

    title: str
    sweeps: Sequence[str]
    protocol: str
    measure: Callable[[Sequence[Run]], Measured]
    printed: Mapping[str, Printed] = field(default_factory=dict)
    shown: Mapping[str, Present] = field(default_factory=dict)
    pictures: Mapping[str, Callable[[Any], Figure]] = field(default_factory=dict)
    unwritten: Sequence[str] = ()

    def runs_among(self, runs: Sequence[Run]) -> list[Run]:
        """Return the runs that belong to one of the experiment's sweeps."""
        return [run for run in runs if {*self.sweeps} & {*run.sweeps}]

    def digest_among(self, runs: Sequence[Run]) -> str:
        """Return a digest of the experiment's runs."""
        return digest(run.spec.settings for run in self.runs_among(runs))
