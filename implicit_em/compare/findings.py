"""What the tables of a part say, a sentence each."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from implicit_em.compare.matching import SIGNIFICANT
from implicit_em.compare.protocol import Protocol
from implicit_em.compare.results import Results
from implicit_em.compare.wording import ACTIVE, name_of, percent, target_text, widths_of
from implicit_em.studies.statistics import holm

OTHERWISE = {
    "least_squares_fvu": ("variance that the best linear decoder leaves unexplained", -1),
    "sparse_probe_1": ("sparse probe of 1 unit", 1),
    "sparse_probe_5": ("sparse probe of 5 units", 1),
}
"""What else the families are compared by, its name, and 1 where more is better."""
ENOUGH = 2
"""Densities at which the derived model has to be on the front, as was asked before any run."""


def findings(results: Results) -> list[str]:
    """Return what the tables say, a sentence each."""
    reference = results.protocol.reference
    activity, density = results.at_activity(), results.at_density()
    said = []
    if not activity.empty:
        widths = widths_of(results.finals)
        said.append(f"The families differ in units, and the probe has as many inputs: {widths}.")
        said += _matched(activity, reference, ACTIVE)
    said += _matched(density, reference)
    said += _otherwise(results)
    said += _front(results.fronts(), reference, unlike=not activity.empty)
    said += _controls(results)
    said += _decoders(results)
    said += _missing(density, results.protocol)
    return said + _diverged(results.diverged)


def _matched(at: pd.DataFrame, reference: str, unit: str = "%") -> list[str]:
    said = [
        _at_one(own, reference, f"At {target_text(target, unit)}") for target, own in _by_target(at)
    ]
    return said + _in_all(at, reference, unit)


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
        return f"{_hundredths(sign * row.ahead)} points (no test)"
    low, high = map(_hundredths, sorted(sign * end for end in (row.low, row.high)))
    judged = "significant" if row.p_holm < SIGNIFICANT else "not significant"
    ahead = _hundredths(sign * row.ahead)
    return f"{ahead} [{low}, {high}] points ({judged}, p = {row.p_holm:.2g})"


def _hundredths(share: float) -> str:
    """Return points to two digits, and no zero below zero."""
    return f"{round(100 * share, 2) + 0.0:.2f}"


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
        f"{_capital(name)} is significantly {word} than {_by_family(own, unit, tests)}."
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


def _by_family(rows: pd.DataFrame, unit: str, every: pd.DataFrame) -> str:
    """Name the families of rows, and where; ``all`` if that is each of its rows in ``every``."""
    sizes = every.groupby("family").size()
    return ", ".join(
        f"{name_of(str(family))} "
        f"({'all' if len(own) == sizes[family] > 1 else _listed(own['target'], unit)})"
        for family, own in rows.groupby("family", sort=False)
    )


def _listed(targets: Iterable[float], unit: str = "%") -> str:
    return ", ".join(percent(t) if unit == "%" else f"{t:.3g}" for t in targets)


def _otherwise(results: Results) -> list[str]:
    """Say how often the reference wins and loses by other measures than the probe."""
    alike = results.at_activity()["p_holm"].isna().all()
    at, where = (results.at_density, "density") if alike else (results.at_activity, "activity")
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
        f"paired tests, corrected at each {where}: {'; '.join(counted)}."
    ]


def _front(found: Mapping[str, pd.DataFrame], reference: str, unlike: bool) -> list[str]:
    said = []
    over = "of unlike widths over density" if unlike else "over density"
    for name, where in (("tuning", "the grids, on validation"), ("finals", "the finals' means")):
        families = found[name]["families"]
        on = found[name].loc[[reference in there for there in families], "target"]
        none = found[name].loc[~families.map(bool), "target"]
        enough = min(ENOUGH, len(families))
        verdict = "at least" if len(on) >= enough else "fewer than"
        at = f" ({_listed(on)})" if len(on) else ""
        nobody = f"; no family's stands at {_listed(none)}" if len(none) else ""
        said.append(
            f"On the Pareto front {over} of {where}, a setting of {name_of(reference)} stands at "
            f"{len(on)} of {len(families)} densities{at}, {verdict} the {enough} asked for{nobody}."
        )
    return said


def _controls(results: Results) -> list[str]:
    """Say which control has the best probe, and which families are above it, and where."""
    if results.controls.empty:
        return []
    means = results.controls.groupby("family")[["probe_accuracy", "exact_density", "units"]].mean()
    best = means.sort_values("probe_accuracy").iloc[-1]
    at = results.at_density()
    above = _by_family(at[at["mean"] > best["probe_accuracy"]], "%", at)
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


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


def _missing(at: pd.DataFrame, protocol: Protocol) -> list[str]:
    said = []
    for family in protocol.families:
        there = set(at.loc[at["family"] == family, "target"])
        if lacking := [percent(target) for target in protocol.densities if target not in there]:
            said.append(f"{_capital(name_of(family))} does not reach {', '.join(lacking)}.")
    return said


def _diverged(diverged: pd.DataFrame) -> list[str]:
    named = [
        f"{name_of(str(family))}, {settings} (seed {_and(own['seed'])})"
        for (family, settings), own in diverged.groupby(["family", "settings"], sort=False)
    ]
    return [f"Finals that diverged, and are left out: {'; '.join(named)}."] if named else []


def _and(numbers: pd.Series) -> str:
    return ", ".join(map(str, numbers))
