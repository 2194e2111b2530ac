"""The report on a part: its findings, tables and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_em_studies.comparison import figures, text_tables
from implicit_em_studies.comparison.results import ComparisonResults
from implicit_em_studies.comparison.targets import verdicts
from implicit_em_studies.comparison.text_tables import ACTIVE, widths_of
from implicit_em_studies.shared.pairs import SIGNIFICANT, Matched
from implicit_em_studies.shared.report import sentences
from implicit_em_studies.shared.tables import percent
from implicit_em_studies.shared.tuned import Content

# Measures beside the probe: the name of each, and 1 if more is better, -1 if less is.
OTHER_MEASURES = {
    "least_squares_fvu": ("variance that the best linear decoder leaves unexplained", -1),
    "sparse_probe_1": ("sparse probe of 1 unit", 1),
    "sparse_probe_5": ("sparse probe of 5 units", 1),
}
ENOUGH = 2  # densities at which the derived model has to be on the front; fixed before any run


def findings(results: ComparisonResults) -> list[str]:
    """Return what the tables say, one sentence each."""
    protocol, reference = results.protocol, results.protocol.reference
    density = Matched(results.at_density(), reference)
    activity = Matched(results.at_activity(), reference, ACTIVE)
    beside = results.beside_variants(results.finals, results.controls)
    fvu = results.finals.groupby(["family", "settings"], sort=False)["fvu"].mean()
    lost = fvu.gt(1).groupby("family", sort=False).agg(["sum", "size"])
    reached = density.at.groupby("family")["target"].agg(list)
    return sentences(
        "implicit_em_studies.comparison",
        "findings.md.j2",
        significant=SIGNIFICANT,
        enough=ENOUGH,
        reference=reference,
        widths=widths_of(results.finals),
        density=density,
        activity=activity,
        counted=_other_measures(results),
        fronts=results.fronts(),
        also=[family for part in protocol.parts.values() for family in part.also],
        control=_best_control(results),
        variants=beside.groupby("family", sort=False)["probe_accuracy"].mean(),
        lost_decoders=lost[lost["sum"] > 0],
        missing={
            family: [percent(t) for t in protocol.densities if t not in reached.get(family, [])]
            for family in protocol.families
        },
        diverged=results.diverged.groupby(["family", "settings"], sort=False)["seed"].agg(list),
    )


@dataclass(frozen=True)
class FamiliesContent(Content[ComparisonResults]):
    """The families at matched density."""

    say = staticmethod(findings)
    judge = staticmethod(verdicts)

    weights: Mapping[str, np.ndarray]  # rows (K, D) of each family at ``results.shown_density``
    sample_shape: tuple[int, ...]
    training: str  # optimizers and schedules of the runs

    text: ClassVar[ModuleType] = text_tables

    @property
    def density(self) -> Matched:
        """The families at the same density."""
        return Matched(self.results.at_density(), self.results.protocol.reference)

    @property
    def activity(self) -> Matched:
        """The families at the same number of active units."""
        return Matched(self.results.at_activity(), self.results.protocol.reference, ACTIVE)

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name."""
        return {
            "pareto": partial(figures.quality_over_density, self.results),
            "grids": partial(figures.grids, self.results),
            "features": partial(figures.features, self.weights, self.sample_shape),
            "histograms": partial(figures.histograms, self.results, self.results.shown_density),
        }


def _best_control(results: ComparisonResults) -> pd.Series | None:
    """Return the means over the runs of the control with the best probe; ``None`` without any."""
    if results.untrained.empty:
        return None
    controls = results.untrained.groupby("family")[["probe_accuracy", "exact_density", "units"]]
    return controls.mean().sort_values("probe_accuracy").iloc[-1]


def _other_measures(results: ComparisonResults) -> tuple[str, list[tuple[str, Matched]]]:
    """Return whether density or activity is equal, and the tests by each other measure."""
    alike = results.at_activity()["p_holm"].isna().all()
    at, equal = (results.at_density, "density") if alike else (results.at_activity, "activity")
    counted = []
    for value, (label, sign) in OTHER_MEASURES.items():
        tests = at(value).dropna(subset="p_holm")
        if len(tests):
            tests["ahead"] *= sign
            counted.append((label, Matched(tests, results.protocol.reference)))
    return equal, counted
