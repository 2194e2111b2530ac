"""The results of all cells: families in pairs, and what the report shows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from implicit_em.base.tables import format_value
from implicit_em.metrics.recovery import random_best, random_share
from implicit_em_studies.recovery import figures
from implicit_em_studies.recovery.protocol import FOUND, RecoveryProtocol
from implicit_em_studies.shared.pairs import Matched, against, ahead_text
from implicit_em_studies.shared.tables import mean_over_seeds, name_of, percent, rows_of
from implicit_em_studies.shared.tuned import Results

OF_CONTROLS = ("units", FOUND, "mean_cosine", "auroc", "l0", "ridge_fvu", "pursuit_l0")
OF_FINALS = (
    *(FOUND, "found_0.9", "mean_cosine", "split", "merged", "auroc", "dead_units"),
    *("l0", "l0_target", "l0_reached", "ridge_fvu", "pursuit_l0"),
)


@dataclass(frozen=True)
class RecoveryResults(Results[RecoveryProtocol]):
    """The measurements of all cells; each table has a column ``cell``."""

    package = "implicit_em_studies.recovery"

    @property
    def matched(self) -> dict[str, Matched]:
        """The families in each cell, tested in pairs against the reference, by criterion."""
        return {name: self.tested(name, self.protocol.reference) for name in self.protocol.criteria}

    @property
    def best_control(self) -> tuple[pd.Series, Any]:
        """What the controls find in each cell, and which finds most; ``None`` if there is none."""
        untrained = self.untrained.reindex(columns=["cell", "family", FOUND])
        found = untrained.groupby(["cell", "family"], sort=False)[FOUND].mean()
        return found, found.idxmax() if len(found) else None

    @property
    def variants(self) -> pd.Series:
        """Mean share that the variants find, and the families that they are of."""
        return self.of_variants(self.finals_of("blind"), self.controls, FOUND)

    @property
    def gaps(self) -> pd.Series:
        """How much each family's mean share over cells falls with the blind choice."""
        truth, blind = (
            self.finals_of(criterion).groupby(["family", "cell"], sort=False)[FOUND].mean()
            for criterion in ("truth", "blind")
        )
        return (truth - blind).groupby("family", sort=False).mean().dropna()

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables of numbers by name."""
        tests = [tests.at.assign(criterion=name) for name, tests in self.matched.items()]
        kept = self.kept("tuning", "chosen", "finals", "controls")
        return {"cells": self.cells, **kept, "tests": pd.concat(tests, ignore_index=True)}

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

    def tested(self, by: str, over: str) -> Matched:
        """Return the families in each cell, as a criterion chose them, tested against one."""
        at = self.finals_of(by).rename(columns={"cell": "target", FOUND: "value"})
        return Matched(against(at[["target", "family", "seed", "value"]], over), over)

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name; those without cells are left out."""
        drawn = {"l0": partial(figures.l0, self)}
        groups = {"cells": figures.phases, "variations": figures.variations}
        for group, draw in groups.items():
            if (self.cells["group"] == group).any():
                for criterion in self.protocol.criteria:
                    drawn[f"{draw.__name__}_{criterion}"] = partial(draw, self, criterion)
        return drawn

    @property
    def about_cells(self) -> pd.DataFrame:
        """What each cell is, as text."""
        shown = ["cell", "group", "features", "width", "units", "density", "true_l0", "changes"]
        return _in_words(self.cells[shown])

    def shares(self, criterion: str) -> pd.DataFrame:
        """Return the share found by each family in each cell, as text, with a row for each cell."""
        protocol = self.protocol
        return _by_cell(self.matched[criterion].as_text(protocol.families, len(protocol.seeds)))

    def differences(self, criterion: str) -> pd.DataFrame:
        """Return each family's lead over the reference in each cell, as text."""
        return _by_cell(self.matched[criterion].differences(self.protocol.families))

    @property
    def behind(self) -> pd.DataFrame:
        """Where the reference is significantly worse than another family, as text."""
        rows = [
            {
                "chosen": "by the truth" if criterion == "truth" else "without the truth",
                "cell": row.target,
                "family": name_of(str(row.family)),
                "its mean": percent(float(row.mean), 1),  # type: ignore[arg-type]
                "points ahead": ahead_text(row),
            }
            for criterion, tests in self.matched.items()
            for row in tests.worse.itertuples()
        ]
        return pd.DataFrame(rows)

    @property
    def random(self) -> pd.DataFrame:
        """Random directions, and what theory expects of as many, as text."""
        columns = ["cell", "family", "mean_cosine", FOUND]
        own = rows_of(self.controls.reindex(columns=columns), family="random")
        means = own.groupby("cell")[["mean_cosine", FOUND]].mean()
        cells = self.cells.set_index("cell").loc[list(means.index)]
        table = pd.DataFrame(
            {
                "mean best cosine": means["mean_cosine"],
                "expected": cells["random_mean_cosine"],
                "share found": means[FOUND],
                "share expected": cells["random_found_0.8"],
            }
        )
        return _in_words(table.reset_index())

    def of_cell(self, cell: str) -> pd.DataFrame:
        """Return the finals of a cell as text."""
        table = mean_over_seeds(rows_of(self.finals, cell=cell), OF_FINALS)
        chosen = rows_of(self.chosen, cell=cell)
        by = chosen.groupby(["family", "settings"])["criterion"].agg(" and ".join)
        by.index = by.index.map(lambda key: (name_of(key[0]), key[1]))
        keys = pd.MultiIndex.from_frame(table[["family", "settings"]])
        table.insert(2, "chosen", by.reindex(keys).to_numpy())
        return table

    def controls_of(self, cell: str) -> pd.DataFrame:
        """Return the controls of a cell as text."""
        own = rows_of(self.controls, cell=cell)
        return mean_over_seeds(own, OF_CONTROLS).drop(columns="settings")


def _by_cell(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of families by cell as one of cells by family, which fits the page."""
    return table.set_index("family").T.rename_axis("cell").reset_index()


def _in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of numbers as text."""
    return table.map(format_value).rename(columns=lambda name: name.replace("_", " "))
