"""Families at the same targets: paired tests against a reference, over seeds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from implicit_em_studies.shared.statistics import ROUNDING, difference
from implicit_em_studies.shared.tables import mean_and_deviation, name_of, percent, records

SIGNIFICANT = 0.05
TESTED = ["pairs", "ahead", "low", "high", "p_value"]  # keys of ``lead``


def lead(values: pd.Series, expected: pd.Series) -> dict[str, Any]:
    """Return the mean of ``values - expected`` as ``ahead``, over the ``pairs`` of seeds in both.

    ``low`` and ``high`` are the ends of its 95 % interval, ``p_value`` is that of a paired t test.
    """
    test = difference(values, expected)
    return dict(zip(TESTED, (test.n, test.value, test.low, test.high, test.p_value), strict=True))


def against(at: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return each family's mean at each target, and its lead over the reference.

    Args:
        at: one row per ``target``, ``family`` and ``seed`` with a ``value``, or null without one.

    Returns:
        One row per target and family: ``n`` seeds with a value, their ``mean`` and ``std``, and
        ``lead`` with ``p_holm``, corrected over the families at this target. ``best`` marks the
        highest mean of those over all seeds. Missing numbers are null.
    """
    rows: list[dict[str, Any]] = []
    seeds = at["seed"].nunique()
    for target, here in at.dropna(subset="value").groupby("target", sort=False):
        values = {
            str(family): own.set_index("seed")["value"]
            for family, own in here.groupby("family", sort=False)
        }
        expected = values.get(reference, pd.Series(dtype=float))
        for family, value in values.items():
            row = {"target": target, "family": family, "n": len(value), "pairs": 0}
            row |= {"mean": float(value.mean()), "std": float(value.std())}
            if family != reference and value.index.isin(expected.index).any():
                row |= lead(value, expected)
            rows.append(row)
    table = pd.DataFrame(rows, columns=["target", "family", "n", "mean", "std", *TESTED])
    table = table.astype(dict.fromkeys(["std", *TESTED[1:]], float))
    complete = table["mean"].where(table["n"] == seeds)
    highest = complete.groupby(table["target"]).transform("max")
    return table.assign(p_holm=_corrected_by_target(table), best=complete == highest)


def corrected(p_values: pd.Series, of: int | None = None) -> pd.Series:
    """Return p-values adjusted for being several, by Holm's step-down method (1979).

    Null ones stand for what could not be tested, and do not count.

    Args:
        p_values: p-values of hypotheses.
        of: number of all hypotheses, if others are not there. They count as if their p-values were
            1, which makes no adjusted p-value smaller.
    """
    ordered = p_values.dropna().astype(float).sort_values(kind="stable")
    steps = (of or len(ordered)) - np.arange(len(ordered))
    adjusted = (ordered * steps).clip(upper=1.0).cummax()
    return adjusted.reindex(p_values.index)


def _corrected_by_target(table: pd.DataFrame) -> pd.Series:
    return table.groupby("target", sort=False)["p_value"].transform(corrected)


class Leader(NamedTuple):
    """Who has the best mean at a target, among the families that reach it with all seeds."""

    where: str  # the target as text
    best: dict[str, Any] | None
    rival: dict[str, Any] | None  # the best family other than the reference
    reference: bool  # whether the reference is there with all seeds


@dataclass(frozen=True)
class Matched:
    """The families at the same targets."""

    at: pd.DataFrame  # from ``against``
    reference: str
    unit: str = "%"  # of the targets, where they are numbers

    @property
    def leaders(self) -> Iterator[Leader]:
        """Who leads at each target; where the best are level, nobody does."""
        for target, here in self.at.groupby("target", sort=False):
            complete = here[here["n"] == here.loc[here["best"], "n"].max()]
            level = np.isclose(complete["mean"], complete["mean"].max(), rtol=ROUNDING, atol=0)
            if level.sum() > 1:
                continue
            ordered = records(complete.sort_values("mean", ascending=False, kind="stable"))
            others = [row for row in ordered if row["family"] != self.reference]
            best, rival = (next(iter(rows), None) for rows in (ordered, others))
            where, there = target_text(target, self.unit), len(others) < len(ordered)
            yield Leader(where, best, rival, there)

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
        return replace(self, at=self.tests.assign(p_holm=corrected(self.tests["p_value"])))

    def where(self, rows: pd.DataFrame, every: pd.DataFrame) -> dict[str, str]:
        """Return each family's targets in ``rows`` as text; ``all`` if no other is in ``every``."""
        targets = every["target"].nunique()
        return {
            str(family): "all" if len(own) == targets > 1 else self.listed(own["target"])
            for family, own in rows.groupby("family", sort=False)
        }

    def listed(self, targets: pd.Series) -> str:
        """Return targets as text."""
        unit = "" if self.unit == "%" else f" {self.unit}"
        return ", ".join(target_text(target, self.unit).removesuffix(unit) for target in targets)

    def as_text(self, families: Sequence[str], seeds: int) -> pd.DataFrame:
        """Return the means as text, with a row for each family and a column for each target.

        A cell holds the mean ± deviation in per cent, and the number of seeds if some are missing.
        An asterisk marks the best mean; ``+`` and ``−`` mark a mean that is significantly better or
        worse than the reference.
        """

        def cell(row: Any) -> str:
            mean = mean_and_deviation(100 * row.mean, 100 * row.std, ".2f")
            best = " *" if row.best else ""
            significant = not pd.isna(row.p_holm) and row.p_holm < SIGNIFICANT
            sign = (" +" if row.ahead > 0 else " −") if significant else ""
            some = f" ({row.n} of {seeds})" if row.n < seeds else ""
            return f"{mean}{best}{sign}{some}"

        return self._by_target(self.at, cell, families)

    def differences(self, families: Sequence[str]) -> pd.DataFrame:
        """Return each family's lead over the reference in points, as text."""
        others = [family for family in families if family != self.reference]
        return self._by_target(self.at.dropna(subset="ahead"), ahead_text, others)

    def _by_target(
        self, at: pd.DataFrame, cell: Callable[[Any], str], families: Sequence[str]
    ) -> pd.DataFrame:
        cells = at.assign(cell=list(map(cell, at.itertuples())))
        wide = cells.pivot(index="family", columns="target", values="cell")
        wide = wide.reindex(list(families)).fillna("–").rename(index=name_of)
        wide.columns = wide.columns.map(partial(target_text, unit=self.unit))
        return wide.rename_axis("family").reset_index()


def target_text(target: Any, unit: str = "%") -> str:
    """Return a target as text: a name as it is, a density if the unit is ``%``, else a number."""
    if isinstance(target, str):
        return target
    return percent(target) if unit == "%" else f"{target:.3g} {unit}"


def ahead_text(row: Any) -> str:
    """Return a row's lead in points: ``+0.10 [-0.20, +0.40], p = 1 (4 of 5)``.

    The interval and the p-value are left out if there are none, the number of pairs if all seeds
    have one.
    """
    if pd.isna(row.ahead):
        return "–"
    text = f"{100 * row.ahead:+.2f}"
    if not pd.isna(row.low):
        text += f" [{100 * row.low:+.2f}, {100 * row.high:+.2f}]"
    if not pd.isna(row.p_holm):
        text += f", p = {row.p_holm:.2g}"
    return text if row.pairs == row.n else f"{text} ({row.pairs} of {row.n})"
