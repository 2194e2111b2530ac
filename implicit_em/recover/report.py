"""The content of the study's report: tables, figures, findings, and what its template names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure

from implicit_em.base.tables import format_value
from implicit_em.recover import figures
from implicit_em.recover.findings import findings
from implicit_em.recover.results import FOUND, Results
from implicit_em.studies.text_tables import differences_table, matched_table, mean_over_seeds

OF_CONTROLS = ("units", FOUND, "ridge_mean_cosine", "auroc", "l0", "ridge_fvu")
OF_FINALS = (
    *(FOUND, "ridge_found_0.9", "ridge_mean_cosine", "decoder_found_0.8", "encoder_found_0.8"),
    *("ridge_split", "ridge_merged", "auroc", "l0", "ridge_fvu", "dead_units"),
)


@dataclass(frozen=True)
class Content:
    """The families in every cell."""

    results: Results
    training: str  # optimizers and schedules of the runs

    template: ClassVar[str] = "report.md.j2"

    @cached_property
    def findings(self) -> list[str]:
        """What the tables say, one sentence each."""
        return findings(self.results)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables of numbers by name."""
        return self.results.tables()

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name; those without cells are left out."""
        drawn = {"l0": partial(figures.l0, self.results)}
        for criterion in self.results.protocol.criteria:
            drawn[f"phases_{criterion}"] = partial(figures.phases, self.results, criterion)
        if (self.results.cells["group"] == "variations").any():
            drawn["variations"] = partial(figures.variations, self.results, "truth")
        return drawn

    @property
    def cells(self) -> pd.DataFrame:
        """What each cell is, as text."""
        cells = self.results.cells.map(format_value)
        return cells.rename(columns=lambda name: name.replace("_", " "))

    def matched(self, criterion: str) -> pd.DataFrame:
        """Return the share found by each family in each cell, as text."""
        at = self.results.tests(criterion).at
        return matched_table(at, self.results.protocol)

    def differences(self, criterion: str) -> pd.DataFrame:
        """Return each family's lead over the reference in each cell, as text."""
        at = self.results.tests(criterion).at
        return differences_table(at, self.results.protocol)

    def of_cell(self, cell: str) -> pd.DataFrame:
        """Return the finals of a cell as text."""
        finals = self.results.finals
        return mean_over_seeds(finals[finals["cell"] == cell], OF_FINALS)

    def controls_of(self, cell: str) -> pd.DataFrame:
        """Return the controls of a cell as text."""
        controls = self.results.controls
        own = controls[controls["cell"] == cell]
        return mean_over_seeds(own, OF_CONTROLS).drop(columns="settings")
