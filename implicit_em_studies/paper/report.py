"""The report of the paper's study."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_em_studies.paper import tables
from implicit_em_studies.paper.criteria import AMENDMENTS, CLAIMS
from implicit_em_studies.paper.evidence import Evidence
from implicit_em_studies.paper.paper import TABLES
from implicit_em_studies.shared.pages import Report
from implicit_em_studies.shared.tables import records


@dataclass(frozen=True)
class Study:
    """The results that the report shows."""

    experiments: Sequence[str]
    evidence: Evidence
    measured: Mapping[str, pd.DataFrame]  # by name of the paper's table, from ``tables.measure``
    verdicts: pd.DataFrame | None  # ``None`` for a trial

    amendments = AMENDMENTS

    @property
    def verdict_table(self) -> str:
        """The verdicts as Markdown."""
        return "" if self.verdicts is None else CLAIMS.as_markdown(self.verdicts)

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The verdicts as records."""
        return [] if self.verdicts is None else records(self.verdicts)

    @property
    def deviations(self) -> Iterator[dict[str, Any]]:
        """The figures that deviate from the paper's, with number and row of their table."""
        for name, cells in self.measured.items():
            for cell in records(tables.deviations(cells)):
                row = ", ".join(str(cell[axis]) for axis in TABLES[name].by)
                yield cell | {"table": name.removeprefix("table"), "row": row}

    def tables(self, experiment: str) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield the caption and the text of each table of an experiment."""
        for name, cells in self.measured.items():
            if TABLES[name].experiment == experiment:
                yield TABLES[name].caption, tables.side_by_side(name, cells)
        for name, table in tables.BEYOND.items():
            if table.experiment == experiment:
                shown = table.present(getattr(self.evidence, name))
                yield table.caption, tables.as_text(shown)


def write_report(report: Report, study: Study) -> Path:
    """Write ``report.md`` and ``report.html`` beside their figures; return the HTML's path."""
    return report.write_page("implicit_em_studies.paper", study=study)
