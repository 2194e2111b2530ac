"""The report on one language model: its findings, tables and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from implicit_em_studies.language.protocol import REACHED
from implicit_em_studies.language.results import MEASURES, PRIMARY, LanguageResults, summed
from implicit_em_studies.language.targets import verdicts
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.pairs import SIGNIFICANT
from implicit_em_studies.shared.report import sentences
from implicit_em_studies.shared.tables import mean_over_seeds, name_of, rows_of
from implicit_em_studies.shared.tuned import Content

RIVAL = "l1"
"""Family that the reference has to beat at most of the L0."""
OF_FINALS = (
    *("l0", "units_dead", PRIMARY, "variance_explained"),
    *("ce_recovered", "ce_nats", "kl_nats", "train_seconds"),
)
OF_PROBES = "probe_"


def findings(results: LanguageResults) -> list[str]:
    """Return what the tables say, one sentence each."""
    finals, controls, permuted = map(summed, (results.finals, results.controls, results.permuted))
    beside = results.beside_variants(finals, controls)
    missed, reference = finals[finals[REACHED] == 0], results.protocol.reference
    return sentences(
        "implicit_em_studies.language",
        "findings.md.j2",
        significant=SIGNIFICANT,
        reference=reference,
        rival=RIVAL,
        against_rival=_against_rival(results),
        measures={name: MEASURES[name].title for name in results.tests},
        matched={n: t for n, t in results.tests.items() if reference in set(t.at["family"])},
        controls=_best(summed(results.untrained)),
        variants=beside.groupby("family", sort=False)[PRIMARY].mean() if len(beside) else {},
        permuted=_gaps(finals[finals["target"] == results.tuned_at], permuted),
        tuned_at=results.tuned_at,
        dead=finals.groupby("family", sort=False)["units_dead"].max(),
        stability=results.stability.set_index("family")["stability"].dropna(),
        aimed=int(finals["l0_target"].notna().sum()),
        missed=missed.groupby("family", sort=False).size(),
        diverged=results.tuning[results.tuning["ridge_fvu"].isna()].groupby("family").size(),
    )


@dataclass(frozen=True)
class LanguageContent(Content[LanguageResults]):
    """The families on one language model."""

    say = staticmethod(findings)
    judge = staticmethod(verdicts)

    name: str  # of the language model
    weights: str  # where they are
    data: Mapping[str, Any]  # settings of the finals' data
    passes: int  # over the training tokens
    training: str  # optimizers and schedules of the runs

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name."""
        drawn = {name: partial(over_l0, self.results, name) for name in self.results.tests}
        return {**drawn, "densities": partial(densities, self.results)}

    @property
    def measures(self) -> dict[str, str]:
        """Titles of the measures that are compared, by name."""
        return {name: MEASURES[name].title for name in self.results.tests}

    def matched(self, measure: str) -> pd.DataFrame:
        """Return a measure of each family at each L0, as text."""
        protocol = self.results.protocol
        return self.results.tests[measure].as_text(protocol.families, len(protocol.seeds))

    def differences(self, measure: str) -> pd.DataFrame:
        """Return each family's lead over the reference at each L0, as text."""
        return self.results.tests[measure].differences(self.results.protocol.families)

    @property
    def chosen(self) -> pd.DataFrame:
        """The chosen settings, as text."""
        shown = self.results.chosen[["family", "settings", "ridge_fvu", "l0"]]
        return shown.assign(family=shown["family"].map(name_of)).round(3).astype(str)

    def finals_at(self, l0: int) -> pd.DataFrame:
        """Return the finals at an L0, as text."""
        return _at(self.results.finals, l0, OF_FINALS)

    def controls_at(self, l0: int) -> pd.DataFrame:
        """Return the controls of which so many entries are kept, as text."""
        measures = (PRIMARY, "variance_explained", "ce_recovered")
        return _at(self.results.controls, l0, ("units", "l0", *measures))

    @property
    def probes(self) -> pd.DataFrame:
        """Probes on the finals and controls at the L0 of the tuning, as text."""
        both = pd.concat([self.results.finals, self.results.controls], ignore_index=True)
        measured = map(str, both.columns[both.notna().any()])
        names = [name for name in measured if name.startswith(OF_PROBES)]
        return _at(both, self.results.tuned_at, names).drop(columns="settings")

    @property
    def permuted(self) -> pd.DataFrame:
        """The families on the model with permuted weights, as text."""
        return _at(self.results.permuted, self.results.tuned_at, OF_FINALS)


def _at(table: pd.DataFrame, l0: int, columns: Sequence[str]) -> pd.DataFrame:
    """Return the runs at an L0 as means ± deviations over seeds."""
    found = summed(table[table["target"] == l0]) if len(table) else table
    return mean_over_seeds(found, [name for name in columns if name in found])


def _against_rival(results: LanguageResults) -> dict[str, list[str]]:
    """Return at which L0 the reference is better, worse, or neither, by the primary measure."""
    found = results.tests[PRIMARY]
    undecided = found.tests.drop(found.better.index).drop(found.worse.index)
    kinds = {"better": found.better, "worse": found.worse, "undecided": undecided}
    return {kind: [*rows_of(rows, family=RIVAL)["target"].map(str)] for kind, rows in kinds.items()}


def _best(controls: pd.DataFrame) -> pd.DataFrame:
    """Return the control that explains most of the variance at each L0; empty without controls."""
    if controls.empty:
        return controls
    means = controls.groupby(["target", "family"], sort=False)[PRIMARY].mean().reset_index()
    return means.loc[means.groupby("target")[PRIMARY].idxmax()]


def _gaps(finals: pd.DataFrame, permuted: pd.DataFrame) -> pd.DataFrame:
    """Return the variance explained on the model, and on the one with permuted weights."""
    if permuted.empty:
        return pd.DataFrame()
    means = [table.groupby("family", sort=False)[PRIMARY].mean() for table in (finals, permuted)]
    return pd.concat(means, axis=1, keys=["model", "permuted"], join="inner")


def over_l0(results: LanguageResults, name: str) -> Figure:
    """Draw a measure of every family over the active units, with the intervals of the bootstrap."""
    at = results.tests[name].at
    figure, axes = style.subplots(1, 1, 4)
    for family in results.protocol.families:
        own = at[at["family"] == family].set_index("target")
        if own.empty:
            continue
        own = own.reindex(results.protocol.l0)  # a line breaks where its family is not compared
        colour, line, marker = style.look_of(family)
        look: Any = {"color": colour, "ls": line, "marker": marker, "ms": 5}
        axes.plot(own.index, own["mean"], label=name_of(family), **look)
        low, high = own["mean_low"], own["mean_high"]
        axes.fill_between(own.index, low, high, color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log", base=2)
    style.plain_logarithm(axes.xaxis)
    axes.set_xticks(results.protocol.l0)
    if name == "ce_recovered":
        _spread_near_one(axes)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
    axes.set(xlabel="active units of a token", ylabel=f"{MEASURES[name].title} (%)")
    axes.yaxis.label.set_wrap(True)
    style.legend_below(figure, axes, columns=4)
    return figure


def _spread_near_one(axes: Axes) -> None:
    """Scale shares by the logarithm of what is missing to 1, from 0.002 upwards."""
    most = 1.002
    axes.set_yscale(
        "function",
        functions=(
            lambda shares: -np.log(np.maximum(most - shares, 0.001)),
            lambda scaled: most - np.exp(-scaled),
        ),
    )
    limits = axes.get_ylim()
    axes.set_yticks([-1, 0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1])
    axes.set_ylim(limits)  # ticks outside are not shown


def densities(results: LanguageResults) -> Figure:
    """Draw the share of a family's units in each bin of density, at the L0 of the tuning."""
    finals = rows_of(results.finals, target=results.tuned_at)
    activity = "tokens that activate a unit, up to (%)"
    return style.density_histograms(results.protocol.families, finals, 1.7, activity)
