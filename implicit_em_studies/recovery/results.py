"""The results of all cells, and the families in pairs."""

from dataclasses import dataclass

import pandas as pd

from implicit_em.metrics.recovery import random_best, random_share
from implicit_em_studies.recovery.protocol import RecoveryProtocol
from implicit_em_studies.shared.pairs import Matched, against

FOUND = "found_0.8"
"""Share of the features found by a model's directions, with a cosine above 0.8."""


@dataclass(frozen=True)
class RecoveryResults:
    """The measurements of all cells; each table has a column ``cell``."""

    protocol: RecoveryProtocol
    tuning: pd.DataFrame  # measuring.measure_all, of the grids
    chosen: pd.DataFrame  # studies.choice.choose
    finals: pd.DataFrame  # measuring.measure_all
    controls: pd.DataFrame  # measuring.measure_all

    @property
    def cells(self) -> pd.DataFrame:
        """What each cell is, and how near to its features random units are expected to be."""
        rows = []
        for cell, runs in self.finals.groupby("cell", sort=False):
            settings = self.protocol.of_cell(str(cell))
            features, width, units = (
                settings[key] for key in ("data.features", "data.width", "model.hidden")
            )
            row = {"cell": cell, "group": self.protocol.group_of(str(cell)), "features": features}
            row |= {"width": width, "units": units, "density": settings["data.density"]}
            row |= {"true_l0": runs["true_l0"].iloc[0]}
            expected = {"random_found_0.8": random_share(width, units, 0.8)}
            expected |= {"random_mean_cosine": random_best(width, units)}
            changes = {
                key: value
                for key, value in settings.items()
                if value != {"model.hidden": features, **self.protocol.middle}.get(key)
            }
            said = ", ".join(f"{key}={value}" for key, value in changes.items())
            rows.append(row | expected | {"changes": said or "–"})
        return pd.DataFrame(rows)

    def finals_of(self, criterion: str) -> pd.DataFrame:
        """Return the finals of the settings that a criterion chose."""
        chosen = self.chosen[self.chosen["criterion"] == criterion]
        return self.finals.merge(chosen[["cell", "family", "settings"]])

    def tests(self, criterion: str, value: str = FOUND) -> Matched:
        """Return the families in each cell, tested in pairs against the reference."""
        finals = self.finals_of(criterion)
        at = finals.rename(columns={"cell": "target", value: "value"})
        at = at[["target", "family", "seed", "value"]]
        return Matched(against(at, self.protocol.reference), self.protocol.reference)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by name."""
        tests = [
            self.tests(criterion).at.assign(criterion=criterion)
            for criterion in self.protocol.criteria
        ]
        kept = {name: getattr(self, name) for name in ("tuning", "chosen", "finals", "controls")}
        return {"cells": self.cells, **kept, "tests": pd.concat(tests, ignore_index=True)}
