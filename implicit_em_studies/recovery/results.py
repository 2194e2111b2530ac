"""The results of all cells, and the families in pairs."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from implicit_em.metrics.recovery import random_best, random_share
from implicit_em_studies.recovery.protocol import RecoveryProtocol
from implicit_em_studies.shared.pairs import Matched, against
from implicit_em_studies.shared.tables import rows_of
from implicit_em_studies.shared.tuned import Results

FOUND = "found_0.8"
"""Share of the features found by a model's directions, with a cosine above 0.8."""


@dataclass(frozen=True)
class RecoveryResults(Results[RecoveryProtocol]):
    """The measurements of all cells; each table has a column ``cell``."""

    @property
    def cells(self) -> pd.DataFrame:
        """What each cell is, and how near to its features random units are expected to be."""
        rows = []
        for cell, runs in self.finals.groupby("cell", sort=False):
            settings = self.protocol.of_cell(str(cell))
            width, units = settings["data.width"], settings["model.hidden"]
            middle = {"model.hidden": settings["data.features"], **self.protocol.middle}
            row: dict[str, Any] = {"cell": cell, "group": self.protocol.group_of(str(cell))}
            row |= {"features": settings["data.features"], "width": width, "units": units}
            row |= {"density": settings["data.density"], "true_l0": runs["true_l0"].iloc[0]}
            row |= {"random_found_0.8": random_share(width, units, 0.8)}
            row |= {"random_mean_cosine": random_best(width, units)}
            changes = [f"{key}={v}" for key, v in settings.items() if v != middle.get(key)]
            rows.append(row | {"changes": ", ".join(changes) or "–"})
        return pd.DataFrame(rows)

    def finals_of(self, criterion: str) -> pd.DataFrame:
        """Return the finals of the settings that a criterion chose."""
        chosen = rows_of(self.chosen, criterion=criterion)
        return self.finals.merge(chosen[["cell", "family", "settings"]])

    def tests(self, criterion: str, reference: str | None = None) -> Matched:
        """Return the families in each cell, tested in pairs against one of them.

        That is the protocol's reference if none is named.
        """
        reference = reference or self.protocol.reference
        finals = self.finals_of(criterion)
        at = finals.rename(columns={"cell": "target", FOUND: "value"})
        at = at[["target", "family", "seed", "value"]]
        return Matched(against(at, reference), reference)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by name."""
        tests = [self.tests(name).at.assign(criterion=name) for name in self.protocol.criteria]
        kept = self.kept("tuning", "chosen", "finals", "controls")
        return {"cells": self.cells, **kept, "tests": pd.concat(tests, ignore_index=True)}
