"""The results on one language model, and the families in pairs."""

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from implicit_em.language.metrics import ce_recovered, measured_inside
from implicit_em_studies.language.protocol import L0, REACHED, LanguageProtocol
from implicit_em_studies.shared.pairs import Matched, Measure, UndefinedError, against_by_bootstrap
from implicit_em_studies.shared.tuned import Results

log = logging.getLogger(__name__)

PRIMARY = "ridge_variance_explained"
"""Measure that the families are compared by; it was fixed before the first run."""


class Compared(NamedTuple):
    """A measure of sums over documents; higher is better.

    Args:
        sums: columns of the finals that hold the sums, one number for each document.
        measure: function of these sums over all documents.
        title: what is measured, as text.
    """

    sums: tuple[str, ...]
    measure: Measure
    title: str


def _explained(sums: np.ndarray) -> np.ndarray:
    return 1 - sums[..., 0] / sums[..., 1]


def _recovered(sums: np.ndarray) -> np.ndarray:
    return ce_recovered(*np.moveaxis(sums, -1, 0))


MEASURES = {
    PRIMARY: Compared(("ridge", "variance"), _explained, "Variance explained by a ridge decoder"),
    "variance_explained": Compared(
        ("own", "variance"), _explained, "Variance explained by the family's own decoder"
    ),
    "ce_recovered": Compared(
        ("clean", "zero", "spliced"), _recovered, "Cross-entropy recovered inside the model"
    ),
}
UNIT = "active units"
"""What an L0 counts, as text."""
OF_LOSSES = ("predicted", "clean", "zero", "spliced", "divergence")
OF_DOCUMENTS = ("documents", "tokens", "active", "variance", "ridge", "own", *OF_LOSSES)
"""Columns with a number for each document; tables of numbers have their sums."""


@dataclass(frozen=True)
class LanguageResults(Results[LanguageProtocol]):
    """The measurements on one language model.

    Finals and controls have a ``target``, the L0 at which they are compared.
    """

    permuted: pd.DataFrame
    stability: pd.DataFrame

    @cached_property
    def tests(self) -> dict[str, Matched]:
        """The families at each L0 by each measure, tested in pairs against the reference.

        A measure that is undefined is left out: there is no cross-entropy to recover where zeros
        cost nothing.
        """
        tests = {}
        for name in self.measured:
            try:
                tests[name] = self.tested(name, self.protocol.reference)
            except UndefinedError as error:
                log.warning("%s is not compared: %s", name, error)
        return tests

    @property
    def measured(self) -> list[str]:
        """The measures whose sums the finals have."""
        return [name for name, one in MEASURES.items() if set(one.sums) <= set(self.finals)]

    def tested(self, name: str, reference: str) -> Matched:
        """Return the families at each L0 by a measure, tested in pairs against one of them.

        Raises:
            UndefinedError: if the measure is not finite in a resample.
        """
        compared = MEASURES[name]
        at = self.finals[["target", "family", "seed"]].copy()
        of_runs = zip(*(self.finals[name] for name in compared.sums), strict=True)
        stacked = [
            np.column_stack(sums) if reached and all(map(_is_list, sums)) else None
            for reached, sums in zip(self.finals[REACHED], of_runs, strict=True)
        ]
        at["sums"] = pd.Series(stacked, at.index, dtype=object)
        table = against_by_bootstrap(at, reference, compared.measure, self.protocol.resamples)
        return Matched(table, reference, UNIT)

    @property
    def tuned_at(self) -> int:
        """The L0 at which settings were chosen."""
        return self.protocol.tuning[L0]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by name."""
        tests = [tested.at.assign(measure=name) for name, tested in self.tests.items()]
        of_runs = self.kept("finals", "controls", "permuted")
        measured = {name: summed(table) for name, table in of_runs.items()}
        kept = self.kept("tuning", "chosen", "stability")
        return {**kept, **measured, "tests": pd.concat(tests, ignore_index=True)}


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
