"""Families at the same targets: paired tests against a reference, over seeds and documents."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from implicit_em_studies.shared.statistics import CONFIDENCE, ROUNDING, difference
from implicit_em_studies.shared.tables import mean_and_deviation, name_of, percent, records

SIGNIFICANT = 0.05
TESTED = ["pairs", "ahead", "low", "high", "p_value"]  # keys of ``lead``
Measure = Callable[[np.ndarray], np.ndarray]
"""A function of sums over documents ``(..., Q)``, with values ``(...)``; higher is better."""

RESAMPLES = 10_000
DOCUMENTS_AT_ONCE = 2**22
"""Number of documents to draw at a time."""
ESTIMATED = ["low", "high", "p_value", "mean_low", "mean_high"]


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


def corrected(p_values: pd.Series) -> pd.Series:
    """Return p-values adjusted for being several, by Holm's step-down method (1979).

    Null ones stand for what could not be tested, and do not count.
    """
    ordered = p_values.dropna().astype(float).sort_values(kind="stable")
    adjusted = (ordered * np.arange(len(ordered), 0, -1)).clip(upper=1.0).cummax()
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


class UndefinedError(ValueError):
    """A measure is not finite in a resample."""


def against_by_bootstrap(
    at: pd.DataFrame, reference: str, measure: Measure, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Return the table of ``against``, with intervals and tests by a bootstrap.

    Seeds and documents are drawn with replacement, each on their own, because every seed is
    measured on the same documents (the pigeonhole bootstrap of Owen 2007, arXiv 0712.1111). The
    value of a family is the mean over the drawn seeds of the measure of the drawn documents' sums.
    All families share the draws, so they are paired. A family that lacks a seed is compared over
    the seeds that it shares with the reference.

    Intervals are 95 % percentile intervals (Efron & Tibshirani 1993, chapter 13). The two-sided
    p-value inverts them: ``2 (1 + min(#{d <= 0}, #{d >= 0})) / (1 + R)``, at most 1, for the leads
    d of R resamples. The data count as one more resample (Davison & Hinkley 1997, section 4.2), so
    it is never 0.

    A few seeds tell little of others. Where three seeds differ and documents do not, an interval
    reaches from the lowest to the highest seed. It then covers 75 %, and p-values are too small.

    Args:
        at: one row per ``target``, ``family`` and ``seed`` with ``sums``, an array ``(N, Q)`` with
            a row for each document, or null without one.
        reference: family that the others are compared with.
        measure: function of sums over documents; for a loss such as the FVU, 1 minus the loss.
        resamples: number of resamples R.
        seed: seed of the draws.

    Returns:
        The columns of ``against``, and ``mean_low`` and ``mean_high``, the interval of the
        family's own mean. ``std`` remains the deviation over seeds.

    Raises:
        UndefinedError: if the measure is not finite in a resample.
        ValueError: if the sums differ in shape, or there is a single document.
    """
    at = at.reset_index(drop=True)
    there = at.dropna(subset="sums")
    sums_CNQ = _stacked(there["sums"])
    value_C = measure(sums_CNQ.sum(1))
    value_RC = _resampled(sums_CNQ, measure, resamples, seed)
    undefined = there[~np.isfinite([value_C, *value_RC]).all(0)]
    if len(undefined):
        target, family, run = undefined[["target", "family", "seed"]].iloc[0]
        raise UndefinedError(
            f"target={target}, family={family}, seed={run}: the measure must be finite in every "
            "resample"
        )
    drawn = {
        key: pd.DataFrame(value_RC[:, runs], columns=there["seed"].iloc[runs])
        for key, runs in there.groupby(["target", "family"]).indices.items()
    }
    table = against(at.assign(value=pd.Series(value_C, there.index)), reference)
    rows = []
    for row in table.itertuples():
        own = drawn[row.target, row.family]
        low, high = _interval(_over_seeds(own, seed))
        rows.append({"mean_low": low, "mean_high": high})
        if row.pairs:
            rows[-1] |= _lead(own, drawn[row.target, reference], seed)
    table[ESTIMATED] = pd.DataFrame(rows, columns=ESTIMATED)
    return table.assign(p_holm=_corrected_by_target(table))


def _stacked(sums: pd.Series) -> np.ndarray:
    """Return the sums of C runs, float64, shape ``(C, N, Q)``."""
    shapes = sorted({np.shape(sums_NQ) for sums_NQ in sums})
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] < 2:
        raise ValueError(f"sums of shapes {shapes}: all must be (N, Q), with N of 2 or more")
    return np.stack(list(sums)).astype(np.float64)


def _resampled(sums_CNQ: np.ndarray, measure: Measure, resamples: int, seed: int) -> np.ndarray:
    """Return the measure of each run in each resample of the documents, shape ``(R, C)``."""
    runs, documents, quantities = sums_CNQ.shape
    sums_NM = sums_CNQ.swapaxes(0, 1).reshape(documents, -1)
    random, share_N = np.random.default_rng(seed), np.full(documents, 1 / documents)
    size = max(1, DOCUMENTS_AT_ONCE // documents)
    values = []
    for start in range(0, resamples, size):
        counts_BN = random.multinomial(documents, share_N, min(size, resamples - start))
        values.append(measure((counts_BN @ sums_NM).reshape(-1, runs, quantities)))
    return np.concatenate(values)


def _over_seeds(values_RS: pd.DataFrame, seed: int) -> np.ndarray:
    """Return the mean over the drawn seeds; as many seeds are always drawn alike."""
    resamples, seeds = values_RS.shape
    random = np.random.default_rng([seed, seeds])
    counts_RS = random.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    return (counts_RS * values_RS.to_numpy()).mean(1)


def _lead(own: pd.DataFrame, expected: pd.DataFrame, seed: int) -> dict[str, float]:
    """Return interval and p-value of the lead over the seeds in both."""
    apart = (own - expected).dropna(axis=1)
    rounding = ROUNDING * np.abs(own.to_numpy()).max()
    ahead_R = _over_seeds(apart.where(apart.abs() > rounding, 0.0), seed)
    low, high = _interval(ahead_R)
    beyond = min((ahead_R <= 0).sum(), (ahead_R >= 0).sum())
    p_value = min(1.0, 2 * (1 + int(beyond)) / (1 + len(ahead_R)))
    return {"low": low, "high": high, "p_value": p_value}


def _interval(values_R: np.ndarray) -> tuple[float, float]:
    """Return the ends of the percentile interval."""
    low, high = np.quantile(values_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
