"""What an experiment of a study with verdicts consists of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from implicit_em.base.files import whole
from implicit_em.base.tables import markdown_table
from implicit_em_studies.shared.runs import Run

Tables = Mapping[str, pd.DataFrame]
"""What an experiment measured, by name."""
Measured = Mapping[str, Any]
"""The same, with what else its figures and criteria need."""
Evidence = Mapping[str, Measured]
"""What was measured, by experiment; one that was not run is missing."""

# Characters that LaTeX would not print as they are.
LATEX = str.maketrans(
    {character: "\\" + character for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


@dataclass(frozen=True)
class Shown:
    """A table that the report shows.

    Args:
        present: function that makes its numbers readable.
        names: number of columns that name its rows, if it also is a file in Markdown and LaTeX.
    """

    caption: str
    present: Callable[[pd.DataFrame], pd.DataFrame]
    names: int = 0

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
    """An experiment.

    Args:
        title: heading of its section in the report.
        sweeps: names of its sweeps, of the study's file or of ``conf/experiment``.
        measure: function of its complete runs.
        shown: tables that the report shows, by name.
        pictures: functions that draw its figures from what was measured, by name; their captions
            stand in the report's template.
        unwritten: names of what was measured that is not written as a table.
    """

    title: str
    sweeps: Sequence[str]
    measure: Callable[[Sequence[Run]], Measured]
    shown: Mapping[str, Shown] = field(default_factory=dict)
    pictures: Mapping[str, Callable[[Any], Figure]] = field(default_factory=dict)
    unwritten: Sequence[str] = ()

    def tables(self, measured: Measured) -> dict[str, pd.DataFrame]:
        """Return what was measured and is written as a table."""
        return {name: one for name, one in measured.items() if name not in self.unwritten}

    def drawn(self, measured: Measured) -> dict[str, Callable[[], Figure]]:
        """Return functions that draw its figures of what was measured."""
        return {name: partial(draw, measured) for name, draw in self.pictures.items()}
