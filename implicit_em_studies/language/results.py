"""The results on one language model: families at any L0, and what the report shows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_em.language.metrics import ce_recovered
from implicit_em_studies.language import figures
from implicit_em_studies.language.curves import Curves, Measure, Reading, estimate, read_at
from implicit_em_studies.language.protocol import FVU, LOSSES, MEASURES, LanguageProtocol
from implicit_em_studies.language.questions import LEVEL, above, partial_conjunction
from implicit_em_studies.shared.pairs import SIGNIFICANT, corrected
from implicit_em_studies.shared.statistics import Estimate
from implicit_em_studies.shared.tables import (
    Cell,
    mean_over_seeds,
    name_of,
    over_runs,
    over_seeds,
    rows_of,
)
from implicit_em_studies.shared.targets import Target, judged
from implicit_em_studies.shared.tuned import Results

OWN, RIDGE, EXCESS, KL = MEASURES
OF_FINALS = (
    *("l0", OWN, RIDGE, "units_dead", EXCESS, KL, "ce_recovered"),
    *("parameters", "ridge_parameters", "train_seconds"),
)
OF_PROBES = "probe_"
OF_SOURCES = (
    *("sources", "tokens", "active", "variance", "ridge", "own"),
    *("predicted", "clean", "zero", "spliced", "divergence"),
)
"""Columns with a number for each source; tables of numbers have their sums."""
TESTED = ["measure", "over", "target", "family", "n", "mean", "mean_low", "mean_high"]
TESTED += ["ahead", "low", "high", "p_value"]
WHERE = {1: "ahead", 0: "level", -1: "behind"}
"""Where a family is, by the interval of its lead."""


class Compared(NamedTuple):
    """A measure of sums over sources.

    Args:
        sums: columns of the finals that hold the sums, one number for each source.
        value: function of these sums, a share or nats.
        is_loss: whether it is a loss, of which less is better, and ratios are compared.
    """

    sums: tuple[str, ...]
    value: Measure
    is_loss: bool = False

    def compared(self, sums: np.ndarray) -> np.ndarray:
        """Return what families are compared by, more is better: of a loss minus its logarithm.

        It is NaN for a loss that is not above 0, which has no ratio to others.
        """
        values = self.value(sums)
        return -np.log(np.where(values > 0, values, np.nan)) if self.is_loss else values

    def text(self, found: Estimate) -> str:
        """Return a value or a lead, with its interval: per cent and points, or nats and ratios."""
        if not self.is_loss or found.low is None or found.high is None:
            return found.text(2, 100)
        value, low, high = np.exp([-found.value, -found.high, -found.low]).tolist()
        return Estimate(value, low, high).text(3)


def _explained(sums: np.ndarray) -> np.ndarray:
    return 1 - sums[..., 0] / sums[..., 1]


def _excess(sums: np.ndarray) -> np.ndarray:
    return (sums[..., 0] - sums[..., 1]) / sums[..., 2]


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


COMPARED = {
    OWN: Compared(("own", "variance"), _explained),
    RIDGE: Compared(("ridge", "variance"), _explained),
    EXCESS: Compared(("spliced", "clean", "predicted"), _excess, is_loss=True),
    KL: Compared(("divergence", "predicted"), _ratio, is_loss=True),
    FVU: Compared(("own", "variance"), _ratio, is_loss=True),
}


@dataclass(frozen=True)
class LanguageResults(Results[LanguageProtocol]):
    """The measurements on one language model.

    Finals and controls have a ``target``, the L0 that they were led to.
    """

    name: str  # of the part
    permuted: pd.DataFrame  # finals on the model with permuted weights
    stability: pd.DataFrame
    learning: Mapping[int, pd.DataFrame]  # finals at the L0 shown, by the tokens of their harvests
    benchmarks: pd.DataFrame  # a row for each final that the field's benchmarks measured
    readings: pd.DataFrame  # a row for each way to read a final's codes, at the L0 shown
    weights: str  # where the language model is
    data: Mapping[str, Any]  # settings of the finals' data
    passes: int  # over the training tokens

    package = "implicit_em_studies.language"

    @property
    def shown_at(self) -> int:
        """The L0 of the first table."""
        return self.protocol.tuned_at[0]

    @property
    def over(self) -> list[str]:
        """The families whose leads are shown over."""
        names = [self.protocol.reference, *self.protocol.also_over]
        return [name for name in names if name in self.protocol.families]

    @cached_property
    def curves(self) -> dict[str, Curves]:
        """The curves of the families by each measure whose sums the finals have."""
        asked = self.protocol.measures
        known = [name for name in asked if set(COMPARED[name].sums) <= set(self.finals)]
        return {name: self._curves(name, self.finals, sorted(self.protocol.l0)) for name in known}

    def _curves(
        self,
        name: str,
        finals: pd.DataFrame,
        places: Sequence[int],
        read: Reading = read_at,
    ) -> Curves:
        points, compared = summed(finals)[["family", "seed", "l0"]], COMPARED[name]
        of_runs = zip(*(finals[column] for column in compared.sums), strict=True)
        stacked = [np.column_stack(s) if all(map(_is_list, s)) else None for s in of_runs]
        about = points.assign(sums=pd.Series(stacked, points.index, dtype=object))
        return Curves.of(about, compared.compared, places, self.protocol.resamples, read=read)

    @cached_property
    def tests(self) -> pd.DataFrame:
        """Each family's mean and lead over some families, by each measure and at each L0."""
        return self._tests(self.curves, sorted(self.protocol.l0))

    @cached_property
    def learned(self) -> pd.DataFrame:
        """The same by the variance explained, at one L0: a target is a number of tokens."""
        at: dict[tuple[str, int], pd.DataFrame] = {}
        for tokens, finals in self.learning.items():
            found = self._curves(OWN, finals, [self.shown_at], lambda _, values_RC, __: values_RC)
            at |= {(family, tokens): values for (family, _), values in found.at.items()}
        return self._tests({OWN: Curves(at)}, sorted(self.learning))

    def _tests(self, found: Mapping[str, Curves], places: Sequence[int]) -> pd.DataFrame:
        rows = []
        for name, over, target in product(found, self.over, places):
            for family in self.protocol.families:
                mean_R = found[name].mean(family, target)
                if mean_R is None:
                    continue
                mean = estimate(mean_R)
                row = [name, over, target, family, found[name].seeds(family, target)]
                row += [mean.value, mean.low, mean.high]
                lead_R = found[name].lead(family, over, target)
                if lead_R is not None and family != over:
                    lead, ends = estimate(lead_R), (above(lead_R[1:], 0), above(-lead_R[1:], 0))
                    row += [lead.value, lead.low, lead.high, min(1.0, 2 * min(ends))]
                rows.append(dict(zip(TESTED, row, strict=False)))
        table = pd.DataFrame(rows, columns=TESTED)
        together = table.groupby(["measure", "over", "target"], sort=False)["p_value"]
        return table.assign(p_holm=together.transform(corrected))

    @property
    def courses(self) -> dict[str, dict[str, list[str]]]:
        """Where families are beside some, with the fewest tokens and with the most, as text."""
        found: dict[str, dict[str, list[str]]] = {}
        known = self.learned.dropna(subset="ahead")
        for (over, family), rows in known.groupby(["over", "family"], sort=False):
            ends = [Estimate(*row) for row in rows[["ahead", "low", "high"]].to_numpy()[[0, -1]]]
            texts = [
                f"{WHERE[int(one.above()) - int(one.below())]} ({one.text(2, 100)})" for one in ends
            ]
            found.setdefault(str(over), {})[str(family)] = texts
        return found

    def means(self, measure: str, tests: pd.DataFrame, heading: str) -> pd.DataFrame:
        """Return the families' means at each target of some tests with their intervals, as text.

        An asterisk marks the best mean; ``+`` and ``−`` mark a mean that is significantly better or
        worse than that of the reference.
        """
        own = rows_of(tests, measure=measure, over=self.over[0])
        best = own.groupby("target")["mean"].transform("max")

        def cell(row: Any) -> str:
            value = Estimate(row.mean, row.mean_low, row.mean_high)
            sign = ("+" if row.ahead > 0 else "−") if row.p_holm < SIGNIFICANT else ""
            marks = f" {sign}" * bool(sign) + " *" * bool(row.mean == best[row.Index])
            seeds = len(self.protocol.seeds_for(row.family))
            some = f" ({row.n} of {seeds})" * bool(row.n < seeds)
            return COMPARED[measure].text(value) + marks + some

        return self._wide(own, cell, heading)

    def leads(self, measure: str, over: str) -> pd.DataFrame:
        """Return the families' leads over one of them at each L0, as text: points or ratios."""
        own = rows_of(self.tests, measure=measure, over=over).dropna(subset="ahead")

        def cell(row: Any) -> str:
            lead = Estimate(row.ahead, row.low, row.high)
            return f"{COMPARED[measure].text(lead)}, p = {row.p_holm:.2g}"

        return self._wide(own, cell)

    def _wide(
        self, rows: pd.DataFrame, cell: Callable[[Any], str], heading: str = "L0 {}"
    ) -> pd.DataFrame:
        cells = rows.assign(cell=list(map(cell, rows.itertuples())))
        wide = cells.pivot(index="family", columns="target", values="cell")
        wide = wide.reindex([name for name in self.protocol.families if name in wide.index])
        wide = wide.fillna("–").rename(index=name_of).rename(columns=heading.format)
        return wide.rename_axis("family").reset_index().rename_axis(columns=None)

    @cached_property
    def dominance(self) -> pd.DataFrame:
        """At how many L0 a family, a row, is significantly ahead of another, a column.

        The measure is the variance that the own decoders explain; the intervals of leads decide.
        """
        found, places = self.curves[OWN], self.protocol.judged_at(self.name)
        names = [name for name in self.protocol.families if (name, places[0]) in found.at]

        def ahead(own: str, other: str) -> int:
            leads = [found.lead(own, other, place) for place in places]
            return sum(lead is not None and estimate(lead).above() for lead in leads)

        counts = [[ahead(own, other) for other in names] for own in names]
        return pd.DataFrame(counts, names, names)

    @property
    def dominance_table(self) -> pd.DataFrame:
        """The table of ``dominance``, as text."""
        shown = self.dominance.astype(str).rename(index=name_of, columns=name_of)
        return shown.rename_axis("ahead of").reset_index()

    @property
    def summary(self) -> pd.DataFrame:
        """The first table: each family at the L0 that is shown first, as text."""
        l0, rows = self.shown_at, []
        every = summed(rows_of(self.finals, target=l0)).merge(self.benchmarks, "left")
        alike = self.stability.set_index("family")["stability"]
        for family, runs in every.groupby("family", sort=False):
            row = {"family": name_of(str(family)), "parameters": f"{runs['parameters'].max():,.0f}"}
            mean_R = self.curves[OWN].mean(str(family), l0)
            unexplained = None if mean_R is None else estimate(1 - mean_R)
            row["FVU (%)"] = unexplained.text(2, 100) if unexplained else "–"
            for name, heading in ((EXCESS, "excess CE, ratio"), (KL, "KL, ratio")):
                if name in self.curves:
                    lead_R = self.curves[name].lead(str(family), self.protocol.reference, l0)
                    text = "–" if lead_R is None else COMPARED[name].text(estimate(lead_R))
                    row[heading] = "1" if family == self.protocol.reference else text
            for name in self.benchmarks.columns.drop(["family", "settings", "seed", "run"]):
                row[name] = over_runs(runs[name], ".3f")
            row["stability"] = f"{alike.get(family, np.nan):.2f}".replace("nan", "–")
            rows.append(row | {"dead units": over_runs(runs["units_dead"], ".0f")})
        return pd.DataFrame(rows)

    @property
    def verdicts(self) -> pd.DataFrame:
        """Verdicts on the targets that count in this part, corrected over the whole study."""
        asked = [
            (target, family)
            for target in self.protocol.targets
            for family in target.of
            if self.name in target.places and target.by in self.curves
            if {family, target.over} <= {*self.protocol.families}
        ]
        l0 = self.protocol.judged_at(self.name)
        leads = [[self._complete_lead(*one, place) for place in l0] for one in asked]
        p_values = [
            partial_conjunction(
                [1.0 if own is None else above(own[1:], target.bound) for own in found],
                target.places[self.name],
            )
            for (target, _), found in zip(asked, leads, strict=True)
        ]
        every = sum(len(one.of) * len(one.places) for one in self.protocol.targets)
        rows, adjusted = [], corrected(pd.Series(p_values, dtype=float), every)
        for (target, family), p, found in zip(asked, adjusted, leads, strict=True):
            text = COMPARED[target.by].text
            shown = ["–" if own is None else text(estimate(own)) for own in found]
            of_places = "; ".join(f"{k}: {lead}" for k, lead in zip(l0, shown, strict=True))
            measured = f"corrected p = {p:.2g}; {of_places}"
            about = self.protocol.measures[target.by], target.asked(self.name, l0, "L0"), measured
            rows.append(target.verdict(family, *about, bool(p < LEVEL)))
        return judged(rows)

    def _complete_lead(self, asked: Target, family: str, place: int) -> np.ndarray | None:
        """Return the lead that a target asks for, if all seeds of both families are there."""
        found, both = self.curves[asked.by], (family, asked.over)
        complete = all(found.seeds(k, place) == len(self.protocol.seeds_for(k)) for k in both)
        return found.lead(*both, place) if complete else None

    @property
    def best(self) -> dict[str, pd.DataFrame]:
        """The family of the best mean at each L0, by measure; a row for each L0."""
        own = rows_of(self.tests, over=self.over[0])
        best = own.loc[own.groupby(["measure", "target"], sort=False)["mean"].idxmax()]
        values = best[["mean", "mean_low", "mean_high"]].to_numpy()
        texts = [
            COMPARED[m].text(Estimate(*v)) for m, v in zip(best["measure"], values, strict=True)
        ]
        return {
            str(name): rows for name, rows in best.assign(text=texts).groupby("measure", sort=False)
        }

    @property
    def variants(self) -> pd.Series:
        """Mean variance explained of the variants, and of the families that they are of."""
        return self.of_variants(summed(self.finals), summed(self.controls), OWN)

    @property
    def best_controls(self) -> pd.DataFrame:
        """The control that explains most of the variance at each L0; empty without controls."""
        controls = summed(self.untrained)
        if controls.empty:
            return controls
        means = controls.groupby(["target", "family"], sort=False)[RIDGE].mean().reset_index()
        return means.loc[means.groupby("target")[RIDGE].idxmax()]

    @property
    def beside_permuted(self) -> pd.DataFrame:
        """Variance explained on the model and on the model with permuted weights, by family."""
        if self.permuted.empty:
            return pd.DataFrame()
        every = rows_of(self.finals, target=self.shown_at), self.permuted
        means = [summed(rows).groupby("family", sort=False)[RIDGE].mean() for rows in every]
        return pd.concat(means, axis=1, keys=["model", "permuted"], join="inner")

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables of numbers by name."""
        of_runs = self.kept("finals", "controls", "permuted")
        measured = {name: summed(table) for name, table in of_runs.items()}
        more = {
            "tests": self.tests,
            "dominance": self.dominance.rename_axis("family").reset_index(),
        }
        if self.learning:
            finals = [summed(table).assign(harvested=k) for k, table in self.learning.items()]
            more |= {"learning": pd.concat(finals), "learned": self.learned}
        if len(self.readings):
            more["readings"] = self.readings
        return {**self.kept("tuning", "chosen", "stability", "benchmarks"), **measured, **more}

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name."""
        drawn = {name: partial(figures.over_l0, self, name) for name in self.best}
        if self.learning:
            drawn["learning"] = partial(figures.over_tokens, self)
        if len(self.readings):
            drawn["cost"] = partial(figures.over_cost, self)
        return {**drawn, "densities": partial(figures.densities, self)}

    @property
    def losses(self) -> Sequence[str]:
        """The measures that are compared by their ratios."""
        return LOSSES

    @property
    def read(self) -> pd.DataFrame:
        """What codes of more sweeps explain and cost, as text."""
        names = {"family": "family", "sweeps": "read_sweeps", "refit": "refit"}
        cells: dict[str, Cell] = {"FVU (%)": ("fvu", ".2f"), "L0": ("l0", ".1f")}
        cells["µs a token"] = ("microseconds", ".0f")
        shown = self.readings.assign(family=self.readings["family"].map(name_of))
        return over_seeds(shown, names, cells)

    @property
    def chosen_settings(self) -> pd.DataFrame:
        """The chosen settings, as text."""
        shown = self.chosen.drop(columns=["run", "reached"])
        return shown.assign(family=shown["family"].map(name_of), fvu=shown["fvu"].round(4).map(str))

    def finals_at(self, l0: int) -> pd.DataFrame:
        """Return the finals at an L0, as text."""
        return _at(self.finals, l0, OF_FINALS)

    def controls_at(self, l0: int) -> pd.DataFrame:
        """Return the controls of which so many entries are kept, as text."""
        return _at(self.controls, l0, ("units", "l0", OWN, RIDGE, EXCESS, KL))

    @property
    def probes(self) -> pd.DataFrame:
        """Probes of classes of tokens on the finals and controls at the L0 shown, as text."""
        both = pd.concat([self.finals, self.controls], ignore_index=True)
        measured = map(str, both.columns[both.notna().any()])
        names = [name for name in measured if name.startswith(OF_PROBES)]
        return _at(both, self.shown_at, names).drop(columns="settings")

    @property
    def on_permuted(self) -> pd.DataFrame:
        """The families on the model with permuted weights, as text."""
        return _at(self.permuted, self.shown_at, OF_FINALS)


def summed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the measures of each run in place of the sums over its sources.

    Losses inside the model are in nats for each predicted token.
    """
    known = [name for name in OF_SOURCES if name in table]
    found = table.drop(columns=known)
    totals = table[known].map(lambda values: np.sum(values) if _is_list(values) else np.nan)
    if "active" in totals:
        found["l0"] = totals["active"] / totals["tokens"]
    for name in MEASURES:
        compared = COMPARED[name]
        if set(compared.sums) <= set(known):
            found[name] = compared.value(totals[list(compared.sums)].to_numpy(np.float64))
    if "spliced" in known:
        found["ce_recovered"] = ce_recovered(*(totals[k] for k in ("clean", "zero", "spliced")))
    return found


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _at(table: pd.DataFrame, l0: int, columns: Sequence[str]) -> pd.DataFrame:
    """Return the runs at an L0 as means ± deviations over seeds."""
    found = summed(table[table["target"] == l0]) if len(table) else table
    return mean_over_seeds(found, [name for name in columns if name in found])
