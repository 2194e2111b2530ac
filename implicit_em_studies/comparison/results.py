"""The results of a part: families at matched density, and what the report shows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_em_studies.comparison import figures
from implicit_em_studies.comparison.matching import fronts, matched
from implicit_em_studies.comparison.protocol import ComparisonProtocol
from implicit_em_studies.shared.pairs import Matched, against
from implicit_em_studies.shared.tables import mean_over_seeds, name_of, percent
from implicit_em_studies.shared.tuned import Results

PROBE, DENSITY, ACTIVE = "probe_accuracy", "exact_density", "active_units"
"""Columns of the finals: what is compared first, and what is equal where families are compared."""
OF_FINALS = (
    *("exact_density", "relative_density", "probe_accuracy"),
    *("sparse_probe_1", "sparse_probe_2", "sparse_probe_5", "sparse_probe_10"),
    *("fvu", "least_squares_fvu", "dead_units", "silent_units", "class_purity"),
    *("encoder_coherence_mean", "decoder_coherence_mean", "redundancy"),
)
# Measures beside the probe: the name of each, and 1 if more is better, -1 if less is.
OTHER_MEASURES = {
    "least_squares_fvu": ("variance that the best linear decoder leaves unexplained", -1),
    "sparse_probe_1": ("sparse probe of 1 unit", 1),
    "sparse_probe_5": ("sparse probe of 5 units", 1),
}


@dataclass(frozen=True)
class ComparisonResults(Results[ComparisonProtocol]):
    """The measurements of a part, each further table from the function beside it."""

    stability: pd.DataFrame  # measurements.stabilities
    lost: pd.DataFrame  # family, settings and seed of the finals that diverged
    name: str  # of the data set and the part
    weights: Mapping[str, np.ndarray]  # rows (K, D) of each family at ``shown_density``
    sample_shape: tuple[int, ...]

    package = "implicit_em_studies.comparison"
    enough: ClassVar[int] = 2
    """Densities at which the derived model has to be on the front; fixed before any run."""

    @property
    def also(self) -> list[str]:
        """Families that the part adds."""
        return [family for part in self.protocol.parts.values() for family in part.also]

    @property
    def variants(self) -> pd.Series:
        """Mean probe accuracy of the variants, and of the families that they are of."""
        return self.of_variants(self.finals, self.controls, "probe_accuracy")

    @property
    def lost_decoders(self) -> pd.DataFrame:
        """In how many settings a family's own decoder is worse than the mean, and of how many."""
        fvu = self.finals.groupby(["family", "settings"], sort=False)["fvu"].mean()
        lost = fvu.gt(1).groupby("family", sort=False).agg(["sum", "size"])
        return lost[lost["sum"] > 0]

    @property
    def missing(self) -> dict[str, list[str]]:
        """The densities that each family does not reach, as text."""
        reached = self.density.at.groupby("family")["target"].agg(list)
        return {
            family: [
                percent(t) for t in self.protocol.densities if t not in reached.get(family, [])
            ]
            for family in self.protocol.families
        }

    @property
    def best_control(self) -> pd.Series | None:
        """Return the means over its runs of the control with the best probe, if there is one."""
        if self.untrained.empty:
            return None
        controls = self.untrained.groupby("family")[["probe_accuracy", "exact_density", "units"]]
        return controls.mean().sort_values("probe_accuracy").iloc[-1]

    @property
    def other_measures(self) -> tuple[str, list[tuple[str, Matched]]]:
        """Return whether density or activity is equal, and the tests by each other measure."""
        along, equal = (ACTIVE, "activity") if len(self.activity.tests) else (DENSITY, "density")
        every = [
            (label, self.tested(by, self.protocol.reference, along))
            for by, (label, _) in OTHER_MEASURES.items()
        ]
        return equal, [(label, compared) for label, compared in every if len(compared.tests)]

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables of numbers by name."""
        kept = self.kept("tuning", "chosen", "finals", "controls", "stability")
        activity = {"matched_activity": self.activity.at} if len(self.activity.at) else {}
        return {"matched_density": self.density.at} | kept | activity

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name."""
        return {
            "pareto": partial(figures.quality_over_density, self),
            "grids": partial(figures.grids, self),
            "features": partial(figures.features, self.weights, self.sample_shape),
            "histograms": partial(figures.histograms, self, self.shown_density),
        }

    def tested(self, by: str, over: str, along: str = DENSITY) -> Matched:
        """Return the families by a measure, in the direction in which more is better.

        They are at the protocol's densities or, ``along`` the active units, at equal numbers of
        these: densities times the usual width. Numbers below the widest family's at the lowest
        density are left out: it was not tuned there. None are left if all families have one width.
        """
        targets, units = self.protocol.densities, self.finals["units"]
        if along == ACTIVE:
            least = 0.999 * min(targets) * units.max() if units.nunique() > 1 else np.inf
            counts = [density * self.protocol.width for density in targets]
            targets = [count for count in counts if count > least]
        at = matched(self.finals, targets, self.protocol.beyond, along, by)
        sign = OTHER_MEASURES[by][1] if by in OTHER_MEASURES else 1
        unit = "active units" if along == ACTIVE else "%"
        return Matched(against(at.assign(value=sign * at["value"]), over), over, unit)

    @property
    def density(self) -> Matched:
        """The families at the same density."""
        return self.tested(PROBE, self.protocol.reference)

    @property
    def activity(self) -> Matched:
        """The families at the same number of active units."""
        return self.tested(PROBE, self.protocol.reference, ACTIVE)

    @property
    def shown_density(self) -> float:
        """The density at which most families have a setting; the lowest of several."""
        reached = self.chosen.merge(self.finals[["family", "settings"]].drop_duplicates())
        families = reached.groupby("target").size()
        return max(self.protocol.densities, key=lambda target: (families.get(target, 0), -target))

    def fronts(self) -> dict[str, pd.DataFrame]:
        """Return the families on the front of the grids, and on that of the finals' means."""
        finals = self.finals.groupby(["family", "settings"], sort=False, as_index=False)
        means = finals.mean(numeric_only=True)
        arguments = (self.protocol.densities, self.protocol.reach)
        return {
            "tuning": fronts(self.tuning, *arguments),
            "finals": fronts(means.rename(columns={"exact_density": "density"}), *arguments),
        }

    @property
    def chosen_table(self) -> pd.DataFrame:
        """The chosen settings with density and probe, on validation and test samples."""
        finals = self.finals.groupby(["family", "settings"])[["exact_density", "probe_accuracy"]]
        means = finals.mean().rename(
            columns={"exact_density": "test", "probe_accuracy": "test_probe"}
        )
        order = self.protocol.families.index
        rows = self.chosen.join(means, on=["family", "settings"]).sort_values(
            "family", kind="stable", key=lambda column: column.map(order)
        )
        return pd.DataFrame(
            {
                "family": rows["family"].map(name_of),
                "near": rows["target"].map(percent),
                "setting": rows["settings"],
                "density, validation": rows["density"].map(partial(percent, digits=1)),
                "probe, validation": rows["probe_accuracy"].map(partial(percent, digits=2)),
                "density of the finals, test": rows["test"].map(partial(percent, digits=1)),
                "probe of the finals, test": rows["test_probe"].map(partial(percent, digits=2)),
            }
        )

    @property
    def fronts_table(self) -> pd.DataFrame:
        """The families on the Pareto fronts of grids and finals, by density."""
        on = {name: front.set_index("target")["families"] for name, front in self.fronts().items()}
        table = pd.DataFrame({"grids, validation": on["tuning"], "finals, test": on["finals"]})
        table = table.map(lambda families: ", ".join(map(name_of, families)) or "–")
        return table.rename(index=percent).rename_axis("near").reset_index()

    @property
    def quality_table(self) -> pd.DataFrame:
        """The quality and stability of the finals, per setting."""
        stability = self.stability.assign(family=self.stability["family"].map(name_of))
        for name in ("encoder_stability", "decoder_stability"):
            stability[name] = stability[name].map("{:.3f}".format).replace("nan", "–")
        stability.columns = stability.columns.str.replace("_", " ")
        return mean_over_seeds(self.finals, OF_FINALS).merge(stability)

    @property
    def controls_table(self) -> pd.DataFrame:
        """The quality of the controls."""
        table = mean_over_seeds(self.controls, ("units", *OF_FINALS))
        untrained = table["settings"].str.startswith("model=")
        return table.assign(settings=table["settings"].mask(untrained, "–"))

    @property
    def budget_table(self) -> pd.DataFrame:
        """Each family's numbers of settings and of parameters."""
        finals = self.finals.groupby("family")
        table = pd.DataFrame(
            {
                "settings tried": self.tuning.groupby("family").size(),
                "settings trained to the end": finals["settings"].nunique(),
                "parameters": finals["parameters"].first().map("{:,.0f}".format),
            }
        ).reindex(self.protocol.families)
        counts = table.columns.drop("parameters")
        table[counts] = table[counts].fillna(0).astype(int).astype(str)
        return table.fillna("–").rename(index=name_of).rename_axis("family").reset_index()

    @property
    def widths(self) -> str:
        """The number of units K of the families, as text."""
        return self.shared(self.finals.groupby("family", sort=False)["units"].first())

    @staticmethod
    def shared(numbers: pd.Series) -> str:
        """Return the numbers of the families in the index: ``64 for L1, TopK; 128 for derived``."""
        return "; ".join(
            f"{number} for {', '.join(map(name_of, families.index))}"
            for number, families in numbers.groupby(numbers)
        )
