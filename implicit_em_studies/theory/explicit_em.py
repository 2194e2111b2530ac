"""Experiment: explicit EM, and what gradient descent on LSE is beside it.

All methods fit the same mixture to the same samples, from the same starts. A pass is one E-step, or
one gradient, of each sample.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from implicit_em.base.threads import cores
from implicit_em.data import ResidentDataModule
from implicit_em.models import Encoder
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Tables
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.tables import (
    Cell,
    history_of,
    mean_and_deviation,
    over_seeds,
    records,
    rows_of,
)
from implicit_em_studies.theory import em_measuring, free_layer
from implicit_em_studies.theory.em_measuring import method_of

TRAINED = ("exact", "stochastic", "adam", "sgd")
"""Methods that have a sweep; its name ends with theirs."""
METHODS = {
    "exact": "exact EM",
    "stochastic": "stochastic EM",
    "incremental": "incremental EM",
    "adam": "Adam",
    "sgd": "SGD",
    "kmeans": "k-means",
}
"""Names of the methods, as the tables show them."""
EXPLICIT = ("exact", "stochastic", "incremental")
DESCENT = ("adam", "sgd")
SETTING = ["method", "rate"]
QUALITIES = ("likelihood", "test_likelihood", "purity", "nmi", "probe")


class Best(NamedTuple):
    """The best setting of several methods, and its likelihoods by seed."""

    method: str
    rate: str
    likelihoods: pd.Series

    def __str__(self) -> str:
        rate = f" {self.rate}" if self.rate and self.method != "exact" else ""
        return METHODS[self.method] + rate


def measure(runs: Sequence[Run]) -> Tables:
    """Return what the methods reach and how fast, what their steps share, and the free layer.

    ``finals`` has a row for each method, rate and seed, ``curves`` one for each of their passes.
    ``steps`` compares gradient steps with M-steps, ``passes`` exact EM with float64. The rows of
    ``free_layer`` and ``free_curves`` are factors on a row.
    """
    exacts = [run for run in runs if method_of(run) == "exact"]
    trained = em_measuring.QUALITY.of(runs, workers=1).assign(**_setting_of(runs))
    curves: Any = [-history_of(run.directory)["likelihood/lse"] for run in runs]
    measured = [trained.assign(curve=curves)]
    for method, measurement in em_measuring.OF_STARTS.items():
        measured.append(measurement.of(exacts, cores()).assign(method=method, rate=""))
    every = pd.concat(measured).sort_index(kind="stable")
    every = every.join(_paces(runs), on=SETTING)
    every["early"] = every["curve"].map(_at_a_tenth, na_action="ignore")
    curves = every[[*SETTING, "seed", "curve", "pass_seconds"]].explode("curve").dropna()
    curves["pass"] = curves.groupby([*SETTING, "seed"]).cumcount() + 1
    curves["likelihood"] = curves.pop("curve").astype(float)
    curves["seconds"] = curves["pass"] * curves.pop("pass_seconds")
    return {
        "finals": every[[*SETTING, "seed", *QUALITIES, "pass_seconds", "early"]],
        "curves": curves,
        **_of_steps(exacts),
        **_free_layer(exacts[0].spec.build_data()),
    }


def _setting_of(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the method and the rate of each run."""
    return {"method": [*map(method_of, runs)], "rate": [run.axes["lr.value"] for run in runs]}


def _at_a_tenth(curve: Sequence[float]) -> float:
    """Return the likelihood after a tenth of the passes."""
    return [*curve][max(1, len(curve) // 10) - 1]


def _paces(runs: Sequence[Run]) -> pd.Series:
    """Return the seconds of a pass of each method and rate, as the runs of one seed take them."""
    first = min(run.cfg.seed for run in runs)
    timed = [run for run in runs if run.cfg.seed == first]
    em_measuring.keep_paces(timed)
    found = em_measuring.PACE.table(timed).assign(**_setting_of(timed)).set_index(SETTING)
    paces = found["pass_seconds"]
    paces["incremental", ""] = found["incremental"].max()
    return paces


def _of_steps(exacts: Sequence[Run]) -> Tables:
    found = em_measuring.STEPS.of(exacts, cores())
    steps = [
        {"seed": row["seed"], "at": at, **row[at]}
        for row in records(found)
        for at in ("start", "end")
    ]
    losses = pd.Series([history_of(run.directory)["train/loss"] for run in exacts])
    apart = (losses - found["reference"].map(np.array)).map(np.abs).map(np.max)
    passes = found[["seed"]].assign(
        fall=losses.map(largest_fall),
        fall_reference=found["reference"].map(largest_fall),
        likelihoods_apart=apart,
        means_apart=found["means_apart"],
    )
    return {"steps": pd.DataFrame(steps), "passes": passes}


def largest_fall(losses: Sequence[float] | np.ndarray) -> float:
    """Return the largest rise of a loss from one pass to the next, relative to it; at least 0."""
    return max([0.0, *((after - before) / abs(before) for before, after in pairwise(losses))])


def _free_layer(data: ResidentDataModule) -> Tables:
    """Return the objectives of the M-step of a unit of the paper's layer as it starts.

    Its responsibilities are multiplied by the number of units, as ``reduction=count`` does.
    """
    x_ND = data.monitored()[0]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        r_NK = (-Encoder(x_ND.shape[1])(x_ND).double()).softmax(1)
    r_N = r_NK[:, 0] * r_NK.shape[1]
    return {
        "free_layer": free_layer.along_rows(r_N, x_ND, torch.tensor(free_layer.FACTORS)),
        "free_curves": free_layer.along_rows(r_N, x_ND, torch.linspace(0.05, 3, 60)),
    }


def best(curves: pd.DataFrame, methods: Sequence[str], column: str, budget: float) -> Best:
    """Return the setting of methods that has the largest mean likelihood at a budget.

    Between two passes the likelihood is interpolated linearly; before the first one there is none.

    Args:
        curves: the table ``curves``.
        methods: the methods to choose from.
        column: ``pass`` or ``seconds``.
        budget: number of them.
    """

    def reached(curve: pd.DataFrame) -> float:
        return float(np.interp(budget, curve[column], curve["likelihood"], left=np.nan))

    own = curves[curves["method"].isin(methods)].groupby(SETTING, sort=False)
    found = [
        Best(str(method), str(rate), runs.groupby("seed").apply(reached))
        for (method, rate), runs in own
    ]
    return max(found, key=lambda one: np.nan_to_num(one.likelihoods.mean(), nan=-np.inf))


def end_of(curves: pd.DataFrame, column: str) -> float:
    """Return the number of passes, or the seconds, after which the first setting is at its end."""
    return float(curves.groupby(SETTING)[column].max().min())


CELLS: Mapping[str, Cell] = {
    "after a tenth": ("early", ".2f"),
    "log-likelihood": ("likelihood", ".2f"),
    "on test samples": ("test_likelihood", ".2f"),
    "purity (%)": ("purity", ".1f"),
    "mutual information (%)": ("nmi", ".1f"),
    "probe (%)": ("probe", ".2f"),
    "seconds a pass": lambda runs: mean_and_deviation(runs["pass_seconds"].mean(), None, ".2f"),
}
"""What the table shows of each setting."""


def summary(finals: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each method and rate, over the seeds."""
    place = finals["method"].map([*METHODS].index)
    rate = finals["rate"].replace("", "0").astype(float)
    ordered = finals.assign(place=place, number=rate).sort_values(["place", "number"])
    shown = ordered.replace({"method": METHODS, "rate": {"": "–"}}).astype({"probe": float})
    return over_seeds(shown, {name: name for name in SETTING}, CELLS)


def readable_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison of the steps, for a report."""
    shown = steps[["seed", "at"]].rename(columns={"at": "at the"})
    lowest, largest = steps["lowest_rate"], steps["largest_rate"]
    rates = lowest.map("{:.0f} to ".format) + largest.map("{:,.0f}".format)
    texts = {"difference": steps["error"].map("{:.1e}".format), "rates of an M-step": rates}
    return shown.assign(**texts)


def readable_passes(passes: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison of exact EM with float64, for a report."""
    names = {
        "fall": "largest fall",
        "fall_reference": "in float64",
        "likelihoods_apart": "log-likelihoods apart (nats)",
        "means_apart": "means apart",
    }
    shown = passes[list(names)].map("{:.1e}".format).rename(columns=names)
    return pd.concat([passes["seed"], shown], axis=1)


def readable_free_layer(free: pd.DataFrame) -> pd.DataFrame:
    """Return the objectives along a row, one line for each variant."""
    shown = free.set_index("factor").rename("× {:g}".format).T.map("{:,.3f}".format)
    names = shown.index.to_series().str.split(", ", n=1, expand=True)
    names.columns = pd.Index(["energies", "volume term"])
    steps = [step for *_, step in free_layer.VARIANTS.values()]
    return names.join(shown).assign(**{"M-step": steps})


LOOKS = {
    "exact": (style.BLACK, "-"),
    "stochastic": (style.BLUE, "-"),
    "incremental": (style.SKY, "-"),
    "adam": (style.VERMILION, "--"),
    "sgd": (style.ORANGE, "--"),
    "kmeans": (style.GREY, ":"),
}


def race(tables: Tables) -> Figure:
    """Draw the likelihood over passes and seconds, of each method at its best rate."""
    figure, panels = style.subplots(1, 2, 3.0, sharey=True)
    curves, finals = tables["curves"], tables["finals"]
    end = end_of(curves, "pass")
    chosen = {method: best(curves, [method], "pass", end) for method in (*EXPLICIT, *DESCENT)}
    rates = {method: one.rate for method, one in chosen.items()}
    curves = curves[curves["rate"] == curves["method"].map(rates)]
    means = curves.groupby(["method", "pass"], as_index=False)[["seconds", "likelihood"]].mean()
    limit = rows_of(finals, method="kmeans")["likelihood"].mean()
    names = {"pass": "passes", "seconds": "seconds of training"}
    for axes, (column, name) in zip(panels, names.items(), strict=True):
        for method, setting in chosen.items():
            colour, line = LOOKS[method]
            for _, curve in rows_of(curves, method=method).groupby("seed"):
                axes.plot(curve[column], curve["likelihood"], line, color=colour, lw=0.5, alpha=0.5)
            mean = rows_of(means, method=method)
            axes.plot(mean[column], mean["likelihood"], line, color=colour, label=str(setting))
        colour, line = LOOKS["kmeans"]
        axes.axhline(limit, color=colour, ls=line, label="k-means, at its end")
        axes.set(xlabel=name, xscale="log")
        style.plain_logarithm(axes.xaxis)
    later = means[means["pass"] >= min(2, means["pass"].max())]
    panels[0].set(ylabel="log-likelihood (nats)")
    panels[0].set_ylim(later["likelihood"].min())
    style.legend_below(figure, panels[0], 3)
    return figure


def rates(tables: Tables) -> Figure:
    """Draw the likelihood at the end over the rate, for each method that has one."""
    figure, panels = style.subplots(1, 3, 2.5, sharey=True)
    finals = tables["finals"]
    names = ("step size", "rate", "rate")
    for axes, method, name in zip(panels, ("stochastic", *DESCENT), names, strict=True):
        for level in ("exact", "incremental"):  # which have no rate
            height = rows_of(finals, method=level)["likelihood"].mean()
            axes.axhline(height, color=LOOKS[level][0], lw=0.8, label=METHODS[level])
        own = rows_of(finals, method=method)
        rate = own["rate"].astype(float)
        colour, line = LOOKS[method]
        style.dots_and_means(axes, rate, own["likelihood"], line, color=colour)
        axes.set(title=METHODS[method], xlabel=name, xscale="log")
        ticks = sorted(rate.unique())
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
    panels[0].set(ylabel="log-likelihood (nats)")
    panels[0].legend()
    return figure


def free_rows(tables: Tables) -> Figure:
    """Draw what an M-step of a free layer makes least along the scale of a row."""
    figure, panels = style.subplots(1, 2, 2.8)
    curves = tables["free_curves"]
    ending = [
        "ReLU, log variance",
        *(f"linear, log variance and {n}" for n in ("penalty", "decay")),
    ]
    endless = ["ReLU, none", "linear, none", "linear, log variance"]
    shown = {"no end, or an end at 0": endless, "an end": ending}
    colours = (style.BLACK, style.VERMILION, style.BLUE)
    for axes, (title, variants) in zip(panels, shown.items(), strict=True):
        for name, colour in zip(variants, colours, strict=True):
            label = name.replace("none", "no volume term")
            axes.plot(curves["factor"], curves[name], color=colour, label=label)
            if name in ending:
                lowest = curves.iloc[int(curves[name].argmin())]
                axes.plot(lowest["factor"], lowest[name], "o", color=colour, ms=4)
        axes.set(title=title, xlabel="factor on the row")
        axes.legend()
    panels[0].set(ylabel="objective of the M-step")
    return figure


EXPERIMENT = Experiment(
    title="Explicit EM, and gradient descent beside it",
    sweeps=[f"explicit_em_{method}" for method in TRAINED],
    protocol="f3dd9dfb11155a2e",
    measure=measure,
    shown={
        "finals": summary,
        "steps": readable_steps,
        "passes": readable_passes,
        "free_layer": readable_free_layer,
    },
    pictures={"race": race, "rates": rates, "free_layer": free_rows},
)
