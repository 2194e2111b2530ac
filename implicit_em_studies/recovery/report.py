"""The report on all cells: its findings, tables and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from implicit_em.base.tables import format_value
from implicit_em_studies.recovery import figures
from implicit_em_studies.recovery.results import FOUND, RecoveryResults
from implicit_em_studies.recovery.targets import verdicts
from implicit_em_studies.shared import pairs
from implicit_em_studies.shared.report import sentences
from implicit_em_studies.shared.tables import mean_over_seeds, name_of, percent, rows_of
from implicit_em_studies.shared.tuned import Content

OF_CONTROLS = ("units", FOUND, "mean_cosine", "auroc", "l0", "ridge_fvu", "pursuit_l0")
OF_FINALS = (
    *(FOUND, "found_0.9", "mean_cosine", "split", "merged", "auroc", "dead_units"),
    *("l0", "l0_target", "l0_reached", "ridge_fvu", "pursuit_l0"),
)


def findings(results: RecoveryResults) -> list[str]:
    """Return what the tables say, one sentence each."""
    protocol = results.protocol
    untrained = results.untrained.reindex(columns=["cell", "family", FOUND])
    controls = untrained.groupby(["cell", "family"], sort=False)[FOUND].mean()
    beside = results.beside_variants(results.finals_of("blind"), results.controls)
    diverged = results.tuning[results.tuning["ridge_fvu"].isna()]
    aimed = results.finals.dropna(subset="l0_target")
    missed = aimed[aimed["l0_reached"] != 1]
    return sentences(
        "implicit_em_studies.recovery",
        "findings.md.j2",
        significant=pairs.SIGNIFICANT,
        reference=protocol.reference,
        matched={criterion: results.tests(criterion) for criterion in protocol.criteria},
        best_control=controls.idxmax() if len(controls) else None,
        controls=controls,
        variants=beside.groupby("family", sort=False)[FOUND].mean() if len(beside) else {},
        gaps=_gaps(results),
        aimed=len(aimed),
        missed=missed.groupby("family", sort=False).size(),
        diverged=diverged.groupby("family", sort=False).size(),
    )


@dataclass(frozen=True)
class RecoveryContent(Content[RecoveryResults]):
    """The families in every cell."""

    say = staticmethod(findings)
    judge = staticmethod(verdicts)

    training: str  # optimizers and schedules of the runs

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name; those without cells are left out."""
        drawn = {"l0": partial(figures.l0, self.results)}
        groups = {"cells": figures.phases, "variations": figures.variations}
        for group, draw in groups.items():
            if (self.results.cells["group"] == group).any():
                for criterion in self.results.protocol.criteria:
                    drawn[f"{draw.__name__}_{criterion}"] = partial(draw, self.results, criterion)
        return drawn

    @property
    def cells(self) -> pd.DataFrame:
        """What each cell is, as text."""
        shown = ["cell", "group", "features", "width", "units", "density", "true_l0", "changes"]
        return _in_words(self.results.cells[shown])

    def matched(self, criterion: str) -> pd.DataFrame:
        """Return the share found by each family in each cell, as text, with a row for each cell."""
        protocol = self.results.protocol
        tests = self.results.tests(criterion)
        return _by_cell(tests.as_text(protocol.families, len(protocol.seeds)))

    def differences(self, criterion: str) -> pd.DataFrame:
        """Return each family's lead over the reference in each cell, as text."""
        return _by_cell(self.results.tests(criterion).differences(self.results.protocol.families))

    @property
    def behind(self) -> pd.DataFrame:
        """Where the reference is significantly worse than another family, as text."""
        rows = [
            {
                "chosen": "by the truth" if criterion == "truth" else "without the truth",
                "cell": row.target,
                "family": name_of(str(row.family)),
                "its mean": percent(float(row.mean), 1),  # type: ignore[arg-type]
                "points ahead": pairs.ahead_text(row),
            }
            for criterion in self.results.protocol.criteria
            for row in self.results.tests(criterion).worse.itertuples()
        ]
        return pd.DataFrame(rows)

    @property
    def random(self) -> pd.DataFrame:
        """Random directions, and what theory expects of as many, as text."""
        columns = ["cell", "family", "mean_cosine", FOUND]
        own = rows_of(self.results.controls.reindex(columns=columns), family="random")
        means = own.groupby("cell")[["mean_cosine", FOUND]].mean()
        cells = self.results.cells.set_index("cell").loc[list(means.index)]
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
        table = mean_over_seeds(rows_of(self.results.finals, cell=cell), OF_FINALS)
        chosen = rows_of(self.results.chosen, cell=cell)
        by = chosen.groupby(["family", "settings"])["criterion"].agg(" and ".join)
        by.index = by.index.map(lambda key: (name_of(key[0]), key[1]))
        keys = pd.MultiIndex.from_frame(table[["family", "settings"]])
        table.insert(2, "chosen", by.reindex(keys).to_numpy())
        return table

    def controls_of(self, cell: str) -> pd.DataFrame:
        """Return the controls of a cell as text."""
        own = rows_of(self.results.controls, cell=cell)
        return mean_over_seeds(own, OF_CONTROLS).drop(columns="settings")


def _gaps(results: RecoveryResults) -> pd.Series:
    """Return how much each family's mean share over cells falls with the blind choice."""
    truth, blind = (
        results.finals_of(criterion).groupby(["family", "cell"], sort=False)[FOUND].mean()
        for criterion in ("truth", "blind")
    )
    return (truth - blind).groupby("family", sort=False).mean().dropna()


def _by_cell(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of families by cell as one of cells by family, which fits the page."""
    return table.set_index("family").T.rename_axis("cell").reset_index()


def _in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of numbers as text."""
    return table.map(format_value).rename(columns=lambda name: name.replace("_", " "))
