"""The content of the study's report: tables, figures, findings, and what its template names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure

from implicit_em_studies.language import figures
from implicit_em_studies.language.findings import findings
from implicit_em_studies.language.results import MEASURES, PRIMARY, UNIT, Results, summed
from implicit_em_studies.shared.families import name_of
from implicit_em_studies.shared.text_tables import differences_table, matched_table, mean_over_seeds

OF_FINALS = (
    *("l0", "units_dead", PRIMARY, "variance_explained"),
    *("ce_recovered", "ce_nats", "kl_nats", "train_seconds"),
)
OF_PROBES = "probe_"


@dataclass(frozen=True)
class Content:
    """The families on one language model."""

    results: Results
    name: str  # of the language model
    weights: str  # where they are
    data: Mapping[str, Any]  # settings of the finals' data
    passes: int  # over the training tokens
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
        """Functions that draw the figures, by name."""
        drawn = {name: partial(figures.over_l0, self.results, name) for name in self.results.tests}
        return {**drawn, "densities": partial(figures.densities, self.results)}

    @property
    def measures(self) -> dict[str, str]:
        """Titles of the measures that are compared, by name."""
        return {name: MEASURES[name].title for name in self.results.tests}

    def matched(self, measure: str) -> pd.DataFrame:
        """Return a measure of each family at each L0, as text."""
        return matched_table(self.results.tests[measure].at, self.results.protocol, UNIT)

    def differences(self, measure: str) -> pd.DataFrame:
        """Return each family's lead over the reference at each L0, as text."""
        return differences_table(self.results.tests[measure].at, self.results.protocol, UNIT)

    @property
    def chosen(self) -> pd.DataFrame:
        """The chosen settings, as text."""
        shown = self.results.chosen[["family", "settings", "ridge_fvu", "l0"]]
        return shown.assign(family=shown["family"].map(name_of)).round(3).astype(str)

    def finals_at(self, l0: int) -> pd.DataFrame:
        """Return the finals at an L0, as text."""
        return _at(self.results.finals, l0, OF_FINALS)

    def controls_at(self, l0: int) -> pd.DataFrame:
        """Return the controls of which so many entries are kept, as text."""
        return _at(self.results.controls, l0, ("units", PRIMARY))

    @property
    def probes(self) -> pd.DataFrame:
        """Probes on the finals and controls at the L0 of the tuning, as text."""
        both = pd.concat([self.results.finals, self.results.controls], ignore_index=True)
        measured = map(str, both.columns[both.notna().any()])
        names = [name for name in measured if name.startswith(OF_PROBES)]
        return _at(both, self.results.tuned_at, names).drop(columns="settings")

    @property
    def permuted(self) -> pd.DataFrame:
        """The families on the model with permuted weights, as text."""
        return _at(self.results.permuted, self.results.tuned_at, OF_FINALS)


def _at(table: pd.DataFrame, l0: int, columns: Sequence[str]) -> pd.DataFrame:
    """Return the runs at an L0 as means ± deviations over seeds."""
    found = summed(table[table["target"] == l0]) if len(table) else table
    return mean_over_seeds(found, [name for name in columns if name in found])
