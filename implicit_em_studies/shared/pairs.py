"""Families at the same targets: paired tests over seeds against a reference, and who leads."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from implicit_em_studies.shared.statistics import ROUNDING, difference, holm
from implicit_em_studies.shared.tables import percent, records

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
    table: list[dict[str, Any]] = []
    seeds = at["seed"].nunique()
    for target, here in at.dropna(subset="value").groupby("target", sort=False):
        values = {
            str(family): rows.set_index("seed")["value"]
            for family, rows in here.groupby("family", sort=False)
        }
        tests = {
            family: lead(value, values[reference])
            for family, value in values.items()
            if family != reference
            and reference in values
            and len(value.index.intersection(values[reference].index))
        }
        adjusted = holm({family: test["p_value"] for family, test in tests.items()})
        whole = [value.mean() for value in values.values() if len(value) == seeds]
        for family, value in values.items():
            row = {
                "target": target,
                "family": family,
                "n": len(value),
                "mean": float(value.mean()),
                "std": float(value.std()),
                "best": len(value) == seeds and value.mean() == max(whole),
                "p_holm": adjusted.get(family),
            }
            table.append({"pairs": 0, **row, **tests.get(family, {})})
    columns = ["target", "family", "n", "mean", "std", *TESTED, "p_holm", "best"]
    numbers = ["std", *TESTED[1:], "p_holm"]
    return pd.DataFrame(table, columns=columns).astype(dict.fromkeys(numbers, float))


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
            yield Leader(
                target_text(target, self.unit),
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
        return replace(self, at=corrected)

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
