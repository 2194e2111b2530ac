"""The results of a part as tables, and what they say in sentences."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from implicit_em.compare.matching import SIGNIFICANT, against, matched
from implicit_em.compare.protocol import Protocol
from implicit_em.compare.selection import fronts, select
from implicit_em.experiments.statistics import holm

NAMES = {
    "derived": "derived",
    "derived_without_lse": "derived without LSE",
    "l1": "L1",
    "l1_norm": "L1 · ‖W_d‖",
    "topk": "TopK",
    "batch_topk": "BatchTopK",
    "jump_relu": "JumpReLU",
    "gated": "Gated",
    "hybrid": "SAE with LSE + var + tc",
    "pixels": "pixels",
    "pca": "PCA",
    "ica": "ICA",
    "nmf": "NMF",
    "kmeans": "k-means",
    "gmm": "Gaussian mixture",
    "random": "random directions",
    "untrained": "untrained encoder",
}
"""How families are called in print; another one by its own name."""
ACTIVE = "active units"
OTHERWISE = {
    "least_squares_fvu": ("variance that the best linear decoder leaves unexplained", -1),
    "sparse_probe_1": ("sparse probe of 1 unit", 1),
    "sparse_probe_5": ("sparse probe of 5 units", 1),
}
"""What else the families are compared by, its name, and 1 where more is better."""
ENOUGH = 2
"""Densities at which the derived model has to be on the front, as was asked before any run."""


@dataclass(frozen=True)
class Results:
    """What the report of a part is made of.

    Args:
        protocol: of the comparison.
        tuning: a row a setting of the grids, from ``measuring.tuning_table``.
        chosen: from ``selection.select``.
        finals: a row a run, from ``measuring.measure_all``; ``active_units`` is its L0.
        controls: likewise.
        stability: a row a setting, from ``measuring.stabilities``.
        costs: a row a family, from ``costs.costs``.
        diverged: ``family``, ``settings`` and ``seed`` of finals that are not among them.

    """

    protocol: Protocol
    tuning: pd.DataFrame
    chosen: pd.DataFrame
    finals: pd.DataFrame
    controls: pd.DataFrame
    stability: pd.DataFrame
    costs: pd.DataFrame
    diverged: pd.DataFrame

    def at_density(self, value: str = "probe_accuracy") -> pd.DataFrame:
        """Return the families at the protocol's densities, as ``matching.against`` does."""
        at = matched(self.finals, self.protocol.densities, self.protocol.beyond, value=value)
        return against(at, self.protocol.reference)

    def at_activity(self, value: str = "probe_accuracy") -> pd.DataFrame:
        """Return the families at as many active units as those densities are at the usual width.

        Fewer than the widest family has at the lowest density are left out: it was not tuned there.
        Empty where all are of one width, so that equal density is equal activity.
        """
        least = min(self.protocol.densities) * self.finals["units"].max()
        counts = [density * self.protocol.width for density in self.protocol.densities]
        differ = self.finals["units"].nunique() > 1
        targets = [count for count in counts if differ and count > 0.999 * least]
        at = matched(self.finals, targets, self.protocol.beyond, "active_units", value)
        return against(at, self.protocol.reference)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by name."""
        tables = {
            "matched_density": self.at_density(),
            "tuning": self.tuning,
            "chosen": self.chosen,
            "finals": self.finals,
            "controls": self.controls,
            "stability": self.stability,
            "costs": self.costs,
        }
        activity = self.at_activity()
        return tables if activity.empty else {**tables, "matched_activity": activity}

    def fronts(self) -> dict[str, pd.DataFrame]:
        """Return who is on the front of the grids, and on that of the finals' means."""
        means = self.finals.groupby(["family", "settings"], sort=False, as_index=False).mean(
            numeric_only=True
        )
        arguments = (self.protocol.densities, self.protocol.reach)
        return {
            "tuning": fronts(self.tuning, *arguments),
            "finals": fronts(means.rename(columns={"exact_density": "density"}), *arguments),
        }


def choose(protocol: Protocol, tuning: pd.DataFrame) -> pd.DataFrame:
    """Return the settings that the protocol chooses of the grids."""
    return select(tuning, protocol.densities, protocol.reach, protocol.beyond)


def name_of(family: str) -> str:
    """Return how a family, or a knob, is called in print."""
    return NAMES.get(family, family.replace("_", " "))


def percent(share: float, digits: int | None = None) -> str:
    """Return a share as text: ``5 %``."""
    return f"{100 * share:g} %" if digits is None else f"{100 * share:.{digits}f} %"


def findings(results: Results) -> list[str]:
    """Return what the tables say, a sentence each."""
    reference = results.protocol.reference
    activity, density = results.at_activity(), results.at_density()
    said = []
    if not activity.empty:
        widths = widths_of(results.finals)
        said.append(f"The families differ in width, and the probe has as many inputs: {widths}.")
        said += _matched(activity, reference, ACTIVE)
    said += _matched(density, reference)
    said += _otherwise(results)
    said += _front(results.fronts(), reference)
    said += _controls(results)
    said += _decoders(results)
    said += _missing(density, results.protocol)
    return said + _diverged(results.diverged)


def widths_of(finals: pd.DataFrame) -> str:
    """Return which families have how many units: ``64 units: L1, TopK; 128 units: derived``."""
    by_width = finals.groupby("units")["family"].unique()
    return "; ".join(
        f"{units} units: {', '.join(map(name_of, families))}"
        for units, families in by_width.items()
    )


def _matched(at: pd.DataFrame, reference: str, unit: str = "%") -> list[str]:
    said = [
        _at_one(own, reference, f"At {_target(target, unit)}") for target, own in _by_target(at)
    ]
    return said + _in_all(at, reference, unit)


def _target(target: float, unit: str) -> str:
    return percent(target) if unit == "%" else f"{target:.3g} {unit}"


def _by_target(at: pd.DataFrame) -> Iterator[tuple[float, pd.DataFrame]]:
    for target in sorted(at["target"].unique()):
        yield float(target), at[at["target"] == target]


def _at_one(here: pd.DataFrame, reference: str, where: str) -> str:
    """Say who has the best mean at a density, and by how much, and whether that is significant.

    Of those alone that get there with all seeds: other means are of other seeds.
    """
    if not here["best"].any():
        return f"{where} no family gets there with all seeds."
    whole = here[here["n"] == here.loc[here["best"], "n"].iloc[0]]
    ordered: list[Any] = sorted(whole.itertuples(), key=lambda row: -row.mean)
    best, others = ordered[0], [row for row in ordered if row.family != reference]
    said = f"{where} {name_of(best.family)} has the best mean, {percent(best.mean, 2)}"
    if len(others) == len(ordered):
        return f"{said}; {name_of(reference)} does not get there with all seeds."
    if not others:
        return f"{said}; no other family gets there with all seeds."
    if best.family == reference:
        return (
            f"{said}, ahead of the next, {name_of(others[0].family)}, by {_points(others[0], -1)}."
        )
    return f"{said}, ahead of {name_of(reference)} by {_points(best)}."


def _points(row: Any, sign: int = 1) -> str:
    if pd.isna(row.p_holm):
        return f"{100 * sign * row.ahead:z.2f} points (no test)"
    ends = sorted(100 * sign * end for end in (row.low, row.high))
    judged = "significant" if row.p_holm < SIGNIFICANT else "not significant"
    interval = "[{:z.2f}, {:z.2f}]".format(*ends)
    return f"{100 * sign * row.ahead:z.2f} {interval} points ({judged}, p = {row.p_holm:.2g})"


def _in_all(at: pd.DataFrame, reference: str, unit: str) -> list[str]:
    """Say against whom the reference wins and loses, over all densities."""
    tests = at[at["p_holm"].notna()]
    if tests.empty:
        return []
    name = name_of(reference)
    better, worse = _clear(tests)
    of_all = [len(own) for own in _clear(tests.assign(p_holm=_holm_over_all(tests)))]
    said = (
        f"Of {len(tests)} paired tests at equal {'density' if unit == '%' else 'activity'}, {name} "
        f"is significantly better in {len(better)}, significantly worse in {len(worse)}, and "
        f"{len(tests) - len(better) - len(worse)} decide nothing; after Holm over all of them, it "
        f"is better in {of_all[0]} and worse in {of_all[1]}."
    )
    against_whom = [
        f"{name[0].upper()}{name[1:]} is significantly {word} than {_by_family(own, unit)}."
        for word, own in (("better", better), ("worse", worse))
        if len(own)
    ]
    return [said, *against_whom]


def _clear(tests: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tests in which the reference is significantly better, and worse."""
    clear = tests[tests["p_holm"] < SIGNIFICANT]
    return clear[clear["ahead"] < 0], clear[clear["ahead"] > 0]


def _holm_over_all(tests: pd.DataFrame) -> pd.Series:
    adjusted = holm({str(row): p for row, p in tests["p_value"].items()})
    return pd.Series(list(adjusted.values()), tests.index, dtype=float)


def _by_family(tests: pd.DataFrame, unit: str) -> str:
    return ", ".join(
        f"{name_of(str(family))} ({_listed(own['target'], unit)})"
        for family, own in tests.groupby("family", sort=False)
    )


def _listed(targets: Iterable[float], unit: str = "%") -> str:
    return ", ".join(percent(t) if unit == "%" else f"{t:.3g}" for t in targets)


def _otherwise(results: Results) -> list[str]:
    """Say how often the reference wins and loses by other measures than the probe."""
    at = results.at_density if results.at_activity().empty else results.at_activity
    where = "density" if results.at_activity().empty else "activity"
    counted = []
    for value, (label, sign) in OTHERWISE.items():
        tests = at(value).dropna(subset="p_holm")
        if tests.empty:
            continue
        better, worse = _clear(tests.assign(ahead=sign * tests["ahead"]))
        counted.append(
            f"{label}, better in {len(better)} and worse in {len(worse)} of {len(tests)}"
        )
    if not counted:
        return []
    name = name_of(results.protocol.reference)
    return [
        f"By other measures at equal {where}, {name} is significantly better or worse in so many "
        f"paired tests: {'; '.join(counted)}."
    ]


def _front(found: Mapping[str, pd.DataFrame], reference: str) -> list[str]:
    said = []
    for name, where in (("tuning", "the grids, on validation"), ("finals", "the finals' means")):
        families = found[name]["families"]
        on = found[name].loc[[reference in there for there in families], "target"]
        none = found[name].loc[~families.map(bool), "target"]
        verdict = "at least" if len(on) >= ENOUGH else "fewer than"
        at = f" ({_listed(on)})" if len(on) else ""
        nobody = f"; no family's stands at {_listed(none)}" if len(none) else ""
        said.append(
            f"On the Pareto front of {where}, a setting of {name_of(reference)} stands at "
            f"{len(on)} of {len(families)} densities{at}, {verdict} the {ENOUGH} asked for{nobody}."
        )
    return said


def _controls(results: Results) -> list[str]:
    """Say which control has the best probe, and which families are above it, and where."""
    if results.controls.empty:
        return []
    means = results.controls.groupby("family")[["probe_accuracy", "exact_density", "units"]].mean()
    best = means.sort_values("probe_accuracy").iloc[-1]
    at = results.at_density()
    above = _by_family(at[at["mean"] > best["probe_accuracy"]], "%")
    return [
        f"Of the controls, {name_of(str(best.name))} ({best['units']:g} units, "
        f"{percent(best['exact_density'], 1)} of them active) has the best probe, "
        f"{percent(best['probe_accuracy'], 2)}; above it {f'are {above}' if above else 'is none'}."
    ]


def _decoders(results: Results) -> list[str]:
    """Say whose own decoder reconstructs worse than the mean of the data does."""
    means = results.finals.groupby(["family", "settings"], sort=False)["fvu"].mean()
    lost = (means > 1).groupby("family", sort=False).agg(["sum", "size"])
    return [
        f"In {row['sum']} of {row['size']} settings of {name_of(str(family))} its own decoder "
        "reconstructs worse than the mean of the data would."
        for family, row in lost[lost["sum"] > 0].iterrows()
    ]


def _missing(at: pd.DataFrame, protocol: Protocol) -> list[str]:
    said = []
    for family in protocol.families:
        there = set(at.loc[at["family"] == family, "target"])
        if lacking := [percent(target) for target in protocol.densities if target not in there]:
            said.append(f"{name_of(family)} does not reach {', '.join(lacking)}.")
    return said


def _diverged(diverged: pd.DataFrame) -> list[str]:
    named = [
        f"{name_of(str(family))}, {settings} (seed {_and(own['seed'])})"
        for (family, settings), own in diverged.groupby(["family", "settings"], sort=False)
    ]
    return [f"Finals that diverged, and are left out: {'; '.join(named)}."] if named else []


def _and(numbers: pd.Series) -> str:
    return ", ".join(map(str, numbers))


def matched_table(at: pd.DataFrame, protocol: Protocol, unit: str = "%") -> pd.DataFrame:
    """Return a matched table as text: a row a family, a column a density.

    Cells: mean ± deviation in per cent; ``*`` the best mean, ``+`` and ``−`` significantly better
    and worse than the reference; the number of seeds that have a value, where not all do.

    Args:
        at: from ``Results.at_density`` or ``Results.at_activity``.
        protocol: of the comparison.
        unit: of the targets; shares are shown in per cent.

    """
    cells: dict[str, dict[str, str]] = {}
    row: Any
    for row in at.itertuples():
        spread = "" if pd.isna(row.std) else f" ± {100 * row.std:.2f}"
        sign = ""
        if not pd.isna(row.p_holm) and row.p_holm < SIGNIFICANT:
            sign = " +" if row.ahead > 0 else " −"
        heading = _target(row.target, unit)
        seeds = len(protocol.seeds)
        some = f" ({row.n} of {seeds})" if row.n < seeds else ""
        text = f"{100 * row.mean:.2f}{spread}{' *' if row.best else ''}{sign}{some}"
        cells.setdefault(name_of(row.family), {})[heading] = text
    return _families_by_density(cells, protocol.families)


def differences_table(at: pd.DataFrame, protocol: Protocol, unit: str = "%") -> pd.DataFrame:
    """Return how far each family is ahead of the reference, in points, as text."""
    cells: dict[str, dict[str, str]] = {}
    row: Any
    for row in at.dropna(subset="ahead").itertuples():
        heading = _target(row.target, unit)
        cells.setdefault(name_of(row.family), {})[heading] = ahead_text(row)
    others = [family for family in protocol.families if family != protocol.reference]
    return _families_by_density(cells, others)


def ahead_text(row: Any) -> str:
    """Return how many points a row is ``ahead``, and its interval and p where there are any.

    As ``+0.10 [-0.20, +0.40], p = 1``.
    """
    if pd.isna(row.ahead):
        return "–"
    text = f"{100 * row.ahead:+.2f}"
    if not pd.isna(row.low):
        text += f" [{100 * row.low:+.2f}, {100 * row.high:+.2f}]"
    return text if pd.isna(row.p_holm) else f"{text}, p = {row.p_holm:.2g}"


def _families_by_density(
    cells: Mapping[str, Mapping[str, str]], families: Sequence[str]
) -> pd.DataFrame:
    """Return texts by family and density as a table, in the order of both."""
    headings = {heading for row in cells.values() for heading in row}
    ordered = sorted(headings, key=lambda heading: float(heading.split()[0]))
    return pd.DataFrame(
        [
            {
                "family": name,
                **{heading: cells.get(name, {}).get(heading, "–") for heading in ordered},
            }
            for name in map(name_of, families)
        ]
    )


def mean_over_seeds(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return mean ± deviation over the seeds of each setting, as text."""
    rows = []
    for (family, settings), own in frame.groupby(["family", "settings"], sort=False):
        row = {"family": name_of(str(family)), "settings": settings, "n": str(len(own))}
        for column in columns:
            values = pd.to_numeric(own[column], errors="coerce").dropna().to_numpy()
            row[column.replace("_", " ")] = _mean_text(values)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_text(values: np.ndarray) -> str:
    if not len(values):
        return "–"
    alike = np.allclose(values, values[0], rtol=1e-12, atol=0)  # but for rounding, or one value
    return f"{values.mean():.4g}" + ("" if alike else f" ± {values.std(ddof=1):.2g}")
