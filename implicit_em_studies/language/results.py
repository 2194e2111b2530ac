"""The results on one language model: families in pairs, and what the report shows."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_em.language.metrics import ce_recovered, measured_inside
from implicit_em_studies.language import figures
from implicit_em_studies.language.protocol import L0, PRIMARY, REACHED, LanguageProtocol
from implicit_em_studies.shared.pairs import (
    Matched,
    Measure,
    UndefinedError,
    against_by_bootstrap,
)
from implicit_em_studies.shared.tables import mean_over_seeds, name_of, rows_of
from implicit_em_studies.shared.tuned import Results

log = logging.getLogger(__name__)

OF_FINALS = (
    *("l0", "units_dead", PRIMARY, "variance_explained"),
    *("ce_recovered", "ce_nats", "kl_nats", "train_seconds"),
)
OF_PROBES = "probe_"
OF_LOSSES = ("predicted", "clean", "zero", "spliced", "divergence")
OF_DOCUMENTS = ("documents", "tokens", "active", "variance", "ridge", "own", *OF_LOSSES)
"""Columns with a number for each document; tables of numbers have their sums."""


class Compared(NamedTuple):
    """A measure of sums over documents; higher is better.

    Args:
        sums: columns of the finals that hold the sums, one number for each document.
        measure: function of these sums over all documents.
    """

    sums: tuple[str, ...]
    measure: Measure


def _explained(sums: np.ndarray) -> np.ndarray:
    return 1 - sums[..., 0] / sums[..., 1]


def _recovered(sums: np.ndarray) -> np.ndarray:
    return ce_recovered(*np.moveaxis(sums, -1, 0))


MEASURES = {
    PRIMARY: Compared(("ridge", "variance"), _explained),
    "variance_explained": Compared(("own", "variance"), _explained),
    "ce_recovered": Compared(("clean", "zero", "spliced"), _recovered),
}


@dataclass(frozen=True)
class LanguageResults(Results[LanguageProtocol]):
    """The measurements on one language model.

    Finals and controls have a ``target``, the L0 at which they are compared.
    """

    permuted: pd.DataFrame  # finals on the model with permuted weights
    stability: pd.DataFrame
    weights: str  # where the language model is
    data: Mapping[str, Any]  # settings of the finals' data
    passes: int  # over the training tokens

    package = "implicit_em_studies.language"
    unit = "active units"
    rival: ClassVar[str] = "l1"
    """Family that the reference has to beat at most of the L0."""

    @property
    def matched(self) -> dict[str, Matched]:
        """The tests by each measure that the reference has."""
        reference = self.protocol.reference
        return {n: tests for n, tests in self.tests.items() if reference in set(tests.at["family"])}

    @property
    def variants(self) -> pd.Series:
        """Mean variance explained of the variants, and of the families that they are of."""
        return self.of_variants(summed(self.finals), summed(self.controls), PRIMARY)

    @property
    def dead(self) -> pd.Series:
        """The largest number of dead units in a final of each family."""
        return self.finals.groupby("family", sort=False)["units_dead"].max()

    @property
    def alike(self) -> pd.Series:
        """The stability of each family that has several seeds."""
        return self.stability.set_index("family")["stability"].dropna()

    @property
    def against_rival(self) -> dict[str, list[str]]:
        """At which L0 the reference is better, worse, or neither, by the primary measure."""
        found = self.tests[PRIMARY]
        undecided = found.tests.drop(found.better.index).drop(found.worse.index)
        kinds = {"better": found.better, "worse": found.worse, "undecided": undecided}
        own = {kind: rows_of(rows, family=self.rival) for kind, rows in kinds.items()}
        return {kind: list(rows["target"].map(str)) for kind, rows in own.items()}

    @property
    def best_controls(self) -> pd.DataFrame:
        """The control that explains most of the variance at each L0; empty without controls."""
        controls = summed(self.untrained)
        if controls.empty:
            return controls
        means = controls.groupby(["target", "family"], sort=False)[PRIMARY].mean().reset_index()
        return means.loc[means.groupby("target")[PRIMARY].idxmax()]

    @property
    def beside_permuted(self) -> pd.DataFrame:
        """Variance explained on the model and on the model with permuted weights, by family."""
        if self.permuted.empty:
            return pd.DataFrame()
        every = rows_of(self.finals, target=self.tuned_at), self.permuted
        means = [summed(rows).groupby("family", sort=False)[PRIMARY].mean() for rows in every]
        return pd.concat(means, axis=1, keys=["model", "permuted"], join="inner")

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables of numbers by name."""
        tests = [tested.at.assign(measure=name) for name, tested in self.tests.items()]
        of_runs = self.kept("finals", "controls", "permuted")
        measured = {name: summed(table) for name, table in of_runs.items()}
        kept = self.kept("tuning", "chosen", "stability")
        return {**kept, **measured, "tests": pd.concat(tests, ignore_index=True)}

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name."""
        drawn = {name: partial(figures.over_l0, self, name) for name in self.tests}
        return {**drawn, "densities": partial(figures.densities, self)}

    @property
    def places(self) -> list[int]:
        """The L0."""
        return self.protocol.l0

    def counted(self, parts: object) -> str:
        """Return the number of the L0."""
        return f"{len(self.places)} L0"

    @property
    def measured(self) -> list[str]:
        """Names of the measures whose sums the finals have."""
        return [name for name, one in MEASURES.items() if set(one.sums) <= set(self.finals)]

    @cached_property
    def tests(self) -> dict[str, Matched]:
        """The families at each L0 by each measure, tested in pairs against the reference."""
        every = {name: self.tested(name, self.protocol.reference) for name in self.measured}
        return {name: tested for name, tested in every.items() if tested}

    def tested(self, by: str, over: str) -> Matched | None:
        """Return the families at each L0 by a measure, tested in pairs against one of them.

        A measure that is undefined is left out: there is no cross-entropy to recover where zeros
        cost nothing.
        """
        compared = MEASURES[by]
        at = self.finals[["target", "family", "seed"]].copy()
        of_runs = zip(*(self.finals[name] for name in compared.sums), strict=True)
        stacked = [
            np.column_stack(sums) if reached and all(map(_is_list, sums)) else None
            for reached, sums in zip(self.finals[REACHED], of_runs, strict=True)
        ]
        at["sums"] = pd.Series(stacked, at.index, dtype=object)
        try:
            table = against_by_bootstrap(at, over, compared.measure, self.protocol.resamples)
        except UndefinedError as error:
            log.warning("%s is not compared: %s", by, error)
            return None
        return Matched(table, over, self.unit)

    @property
    def tuned_at(self) -> int:
        """The L0 at which settings were chosen."""
        return self.protocol.tuning[L0]

    @property
    def chosen_settings(self) -> pd.DataFrame:
        """The chosen settings, as text."""
        shown = self.chosen[["family", "settings", "ridge_fvu", "l0"]]
        return shown.assign(family=shown["family"].map(name_of)).round(3).astype(str)

    def finals_at(self, l0: int) -> pd.DataFrame:
        """Return the finals at an L0, as text."""
        return _at(self.finals, l0, OF_FINALS)

    def controls_at(self, l0: int) -> pd.DataFrame:
        """Return the controls of which so many entries are kept, as text."""
        measures = (PRIMARY, "variance_explained", "ce_recovered")
        return _at(self.controls, l0, ("units", "l0", *measures))

    @property
    def probes(self) -> pd.DataFrame:
        """Probes on the finals and controls at the L0 of the tuning, as text."""
        both = pd.concat([self.finals, self.controls], ignore_index=True)
        measured = map(str, both.columns[both.notna().any()])
        names = [name for name in measured if name.startswith(OF_PROBES)]
        return _at(both, self.tuned_at, names).drop(columns="settings")

    @property
    def on_permuted(self) -> pd.DataFrame:
        """The families on the model with permuted weights, as text."""
        return _at(self.permuted, self.tuned_at, OF_FINALS)


def summed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the measures of each run in place of the sums over its documents."""
    known = [name for name in OF_DOCUMENTS if name in table]
    found = table.drop(columns=known)
    totals = table[known].map(lambda values: np.sum(values) if _is_list(values) else np.nan)
    if "active" in totals:
        found["l0"] = totals["active"] / totals["tokens"]
    for name, compared in MEASURES.items():
        if set(compared.sums) <= set(known):
            found[name] = compared.measure(totals[list(compared.sums)].to_numpy(np.float64))
    if set(OF_LOSSES) <= set(known):
        found = found.assign(**measured_inside(**totals[list(OF_LOSSES)].astype(float)))
    return found


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _at(table: pd.DataFrame, l0: int, columns: Sequence[str]) -> pd.DataFrame:
    """Return the runs at an L0 as means ± deviations over seeds."""
    found = summed(table[table["target"] == l0]) if len(table) else table
    return mean_over_seeds(found, [name for name in columns if name in found])
