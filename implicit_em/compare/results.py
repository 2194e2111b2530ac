"""The results of a part as tables, and what they say in sentences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from implicit_em.compare.matching import SIGNIFICANT, against, matched
from implicit_em.compare.protocol import Protocol
from implicit_em.compare.selection import fronts, select

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

    @property
    def widths_differ(self) -> bool:
        """Whether the families differ in width, so that equal density is not equal activity."""
        return self.finals["units"].nunique() > 1

    def at_density(self) -> pd.DataFrame:
        """Return the families at the protocol's densities, as ``matching.against`` does."""
        at = matched(self.finals, self.protocol.densities, self.protocol.beyond)
        return against(at, self.protocol.reference)

    def at_activity(self) -> pd.DataFrame:
        """Return the families at as many active units as those densities are at the usual width.

        Fewer than the widest family has at the lowest density are left out: it was not tuned there.
        """
        least = min(self.protocol.densities) * self.finals["units"].max()
        counts = [density * self.protocol.width for density in self.protocol.densities]
        targets = [count for count in counts if count > 0.999 * least]
        at = matched(self.finals, targets, self.protocol.beyond, along="active_units")
        return against(at, self.protocol.reference)

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
    at = results.at_density()
    said = [_at_one(own, reference, f"At {percent(target)}") for target, own in _by_target(at)]
    said += _in_all(at, reference)
    said += _front(results.fronts(), reference)
    said += _missing(at, results.protocol)
    said += _diverged(results.diverged)
    if results.widths_differ:
        said += [
            _at_one(own, reference, f"At {target:.3g} active units")
            for target, own in _by_target(results.at_activity())
        ]
    return said


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
        return f"{100 * sign * row.ahead:.2f} points (no test)"
    ends = sorted(100 * sign * end for end in (row.low, row.high))
    judged = "significant" if row.p_holm < SIGNIFICANT else "not significant"
    interval = "[{:.2f}, {:.2f}]".format(*ends)
    return f"{100 * sign * row.ahead:.2f} {interval} points ({judged}, p = {row.p_holm:.2g})"


def _in_all(at: pd.DataFrame, reference: str) -> list[str]:
    """Say against whom the reference wins and loses, over all densities."""
    tests = at[at["p_holm"].notna()]
    if tests.empty:
        return []
    clear = tests[tests["p_holm"] < SIGNIFICANT]
    ahead, behind = (clear[clear["ahead"] < 0], clear[clear["ahead"] > 0])
    said = (
        f"Of {len(tests)} paired tests against {name_of(reference)}, it is significantly better in "
        f"{len(ahead)}, significantly worse in {len(behind)}, and {len(tests) - len(clear)} decide "
        "nothing."
    )
    beaten_by = [f"{name_of(str(f))} ({_listed(own)})" for f, own in behind.groupby("family")]
    if beaten_by:
        said += f" It is beaten by {', '.join(beaten_by)}."
    return [said]


def _listed(rows: pd.DataFrame) -> str:
    return ", ".join(map(percent, rows["target"]))


def _front(found: Mapping[str, pd.DataFrame], reference: str) -> list[str]:
    said = []
    for name, where in (("tuning", "the grids, on validation"), ("finals", "the finals' means")):
        on = found[name][[reference in families for families in found[name]["families"]]]
        verdict = "at least" if len(on) >= ENOUGH else "fewer than"
        at = f" ({_listed(on)})" if len(on) else ""
        said.append(
            f"On the Pareto front of {where}, a setting of {name_of(reference)} stands at "
            f"{len(on)} of {len(found[name])} densities{at}: {verdict} the {ENOUGH} asked for."
        )
    return said


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
        heading = percent(row.target) if unit == "%" else f"{row.target:g} {unit}"
        seeds = len(protocol.seeds)
        some = f" ({row.n} of {seeds})" if row.n < seeds else ""
        text = f"{100 * row.mean:.2f}{spread}{' *' if row.best else ''}{sign}{some}"
        cells.setdefault(name_of(row.family), {})[heading] = text
    return _families_by_density(cells, protocol.families)


def differences_table(at: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Return how far each family is ahead of the reference, in points, as text."""
    cells: dict[str, dict[str, str]] = {}
    row: Any
    for row in at.dropna(subset="ahead").itertuples():
        text = f"{100 * row.ahead:+.2f}"
        if not pd.isna(row.low):
            text += f" [{100 * row.low:+.2f}, {100 * row.high:+.2f}]"
        if not pd.isna(row.p_holm):
            text += f", p = {row.p_holm:.2g}"
        cells.setdefault(name_of(row.family), {})[percent(row.target)] = text
    others = [family for family in protocol.families if family != protocol.reference]
    return _families_by_density(cells, others)


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
