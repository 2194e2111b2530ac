"""What the tables of a part say, one sentence each; ``findings.md.j2`` has the words."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from implicit_em.compare.matching import SIGNIFICANT
from implicit_em.compare.results import Results
from implicit_em.compare.wording import ACTIVE, name_of, percent, target_text, widths_of
from implicit_em.studies.pages import sentences
from implicit_em.studies.statistics import holm
from implicit_em.studies.tables import records

# Measures beside the probe: the name of each, and 1 if more is better, -1 if less is.
OTHER_MEASURES = {
    "least_squares_fvu": ("variance that the best linear decoder leaves unexplained", -1),
    "sparse_probe_1": ("sparse probe of 1 unit", 1),
    "sparse_probe_5": ("sparse probe of 5 units", 1),
}
ENOUGH = 2  # densities at which the derived model has to be on the front; fixed before any run


class Leader(NamedTuple):
    """Who has the best mean at a target, among the families that reach it with all seeds."""

    where: str  # the target as text
    best: dict[str, Any] | None
    rival: dict[str, Any] | None  # the best family other than the reference
    reference: bool  # whether the reference is there with all seeds


@dataclass(frozen=True)
class Matched:
    """The families at the same density or activity."""

    at: pd.DataFrame  # from ``Results.at_density`` or ``Results.at_activity``
    reference: str
    unit: str = "%"  # of the targets, or ``wording.ACTIVE``

    @property
    def leaders(self) -> Iterator[Leader]:
        """Who leads at each target."""
        for target, here in self.at.groupby("target"):
            complete = here[here["n"] == here.loc[here["best"], "n"].max()]
            ordered = records(complete.sort_values("mean", ascending=False, kind="stable"))
            others = [row for row in ordered if row["family"] != self.reference]
            yield Leader(
                target_text(target, self.unit),  # type: ignore[arg-type]
                next(iter(ordered), None),
                next(iter(others), None),
                len(others) < len(ordered),
            )

    @property
    def tests(self) -> pd.DataFrame:
        """The rows that were tested."""
        return self.at[self.at["p_holm"].notna()]

    @property
    def better(self) -> pd.DataFrame:
        """The tests in which the reference is significantly better."""
        return self.tests[(self.tests["p_holm"] < SIGNIFICANT) & (self.tests["ahead"] < 0)]

    @property
    def worse(self) -> pd.DataFrame:
        """The tests in which the reference is significantly worse."""
        return self.tests[(self.tests["p_holm"] < SIGNIFICANT) & (self.tests["ahead"] > 0)]

    def corrected_over_all(self) -> "Matched":
        """Return the tests, with Holm's correction over all targets together."""
        p_values = holm({str(row): p for row, p in self.tests["p_value"].items()}).values()
        corrected = self.tests.assign(p_holm=pd.array(list(p_values), "Float64"))
        return Matched(corrected, self.reference, self.unit)

    def where(self, rows: pd.DataFrame, every: pd.DataFrame) -> dict[str, str]:
        """Return each family's targets in ``rows`` as text; ``all`` if it has no others."""
        sizes = every.groupby("family").size()
        return {
            str(family): "all" if len(own) == sizes[family] > 1 else self.listed(own["target"])
            for family, own in rows.groupby("family", sort=False)
        }

    def listed(self, targets: pd.Series) -> str:
        """Return targets as text."""
        return ", ".join(percent(t) if self.unit == "%" else f"{t:.3g}" for t in targets)


def findings(results: Results) -> list[str]:
    """Return what the tables say, one sentence each."""
    protocol, reference = results.protocol, results.protocol.reference
    density = Matched(results.at_density(), reference)
    activity = Matched(results.at_activity(), reference, ACTIVE)
    fvu = results.finals.groupby(["family", "settings"], sort=False)["fvu"].mean()
    lost = fvu.gt(1).groupby("family", sort=False).agg(["sum", "size"])
    controls = results.controls.groupby("family")[["probe_accuracy", "exact_density", "units"]]
    best_controls = controls.mean().sort_values("probe_accuracy")
    reached = density.at.groupby("family")["target"].agg(list)
    return sentences(
        "implicit_em.compare",
        "findings.md.j2",
        name=name_of,
        percent=percent,
        significant=SIGNIFICANT,
        enough=ENOUGH,
        reference=reference,
        widths=widths_of(results.finals),
        density=density,
        activity=activity,
        counted=_other_measures(results),
        fronts=results.fronts(),
        control=None if best_controls.empty else best_controls.iloc[-1],
        lost_decoders=lost[lost["sum"] > 0],
        missing={
            family: [percent(t) for t in protocol.densities if t not in reached.get(family, [])]
            for family in protocol.families
        },
        diverged=results.diverged.groupby(["family", "settings"], sort=False)["seed"].agg(list),
    )


def _other_measures(results: Results) -> tuple[str, list[tuple[str, Matched]]]:
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
