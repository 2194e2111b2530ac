"""Experiment: explicit EM, and what gradient descent on LSE is beside it.

All methods fit the same mixture to the same samples, from the same starts. A pass is one E-step, or
one gradient, of each sample.
"""

from collections.abc import Iterator, Mapping, Sequence
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
from implicit_em_studies.shared.experiment import Experiment, Shown, Tables
from implicit_em_studies.shared.measurements import Measurement
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.tables import history_of, in_words, mean_and_deviation, rows_of
from implicit_em_studies.theory import em_measuring, free_layer

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


class Best(NamedTuple):
    """The best setting of several methods, and its likelihoods by seed."""

    method: str
    rate: str
    likelihoods: pd.Series

    def __str__(self) -> str:
        return _named(self.method, self.rate)


def _named(method: str, rate: str) -> str:
    return METHODS[method] + (f" {rate}" if rate and method != "exact" else "")


def measure(runs: Sequence[Run]) -> Tables:
    """Return what the methods reach and how fast, what their steps share, and the free layer.

    ``finals`` has a row for each method, rate and seed, ``curves`` one for each of their passes.
    ``steps`` compares gradient steps with M-steps, ``passes`` exact EM with float64. The rows of
    ``free_layer`` and ``free_curves`` are factors on a row.
    """
    exacts = [run for run in runs if em_measuring.method_of(run) == "exact"]
    em_measuring.QUALITY.of(runs, workers=1)
    for measurement in (em_measuring.STEPS, em_measuring.INCREMENTAL, em_measuring.KMEANS):
        measurement.of(exacts, cores())
    first = min(run.cfg.seed for run in runs)
    timed = [run for run in runs if run.cfg.seed == first]
    em_measuring.keep_paces(timed)
    every = pd.DataFrame(_rows(runs, _paces(timed)))
    curves = every[[*SETTING, "seed", "curve", "pass_seconds"]].explode("curve").dropna()
    curves["pass"] = curves.groupby([*SETTING, "seed"]).cumcount() + 1
    curves["likelihood"] = curves.pop("curve").astype(float)
    curves["seconds"] = curves["pass"] * curves.pop("pass_seconds")
    return {
        "finals": every.drop(columns="curve"),
        "curves": curves,
        **_of_steps(exacts),
        **_free_layer(exacts[0].spec.build_data()),
    }


def _paces(timed: Sequence[Run]) -> dict[tuple[str, str], float]:
    """Return the seconds of a pass of each method and rate."""
    paces = {("kmeans", ""): np.nan}
    for run in timed:
        found = _known(em_measuring.PACE, run)
        paces[em_measuring.method_of(run), run.axes["lr.value"]] = found["pass_seconds"]
        if "incremental" in found:
            paces["incremental", ""] = found["incremental"]
    return paces


def _rows(runs: Sequence[Run], paces: Mapping[tuple[str, str], float]) -> Iterator[dict[str, Any]]:
    """Yield the finals, with the ``curve`` of the likelihood, a list."""
    for run in runs:
        method, curve = em_measuring.method_of(run), -history_of(run.directory)["likelihood/lse"]
        own = {**_known(em_measuring.QUALITY, run), "curve": curve.to_list()}
        found: dict[tuple[str, str], Any] = {(method, run.axes["lr.value"]): own}
        if method == "exact":
            found["incremental", ""] = _known(em_measuring.INCREMENTAL, run)
            found["kmeans", ""] = {**_known(em_measuring.KMEANS, run), "curve": None}
        for setting, values in found.items():
            passes = values["curve"]
            row: dict[str, Any] = dict(zip(SETTING, setting, strict=True))
            row |= {"seed": run.cfg.seed, **values, "pass_seconds": paces[setting]}
            yield row | {"early": passes[max(1, len(passes) // 10) - 1] if passes else np.nan}


def _known(measurement: Measurement, run: Run) -> dict[str, Any]:
    found = measurement.known(run)
    assert found is not None, "it was measured before"
    return found


def _of_steps(exacts: Sequence[Run]) -> Tables:
    steps, passes = [], []
    for run in exacts:
        found = _known(em_measuring.STEPS, run)
        steps += [{"seed": run.cfg.seed, "at": at, **found[at]} for at in ("start", "end")]
        losses = history_of(run.directory)["train/loss"].to_numpy()
        passes.append(
            {
                "seed": run.cfg.seed,
                "fall": largest_fall(losses),
                "fall_reference": largest_fall(found["reference"]),
                "likelihoods_apart": float(np.abs(losses - found["reference"]).max()),
                "means_apart": found["means_apart"],
            }
        )
    return {"steps": pd.DataFrame(steps), "passes": pd.DataFrame(passes)}


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


def best_rates(finals: pd.DataFrame) -> dict[str, str]:
    """Return the rate of each method whose mean likelihood at the end is largest."""
    means = finals.groupby(SETTING)["likelihood"].mean().sort_values()
    return {str(method): str(rate) for method, rate in means.index}  # the last of each stays


def summary(finals: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each method and rate, over the seeds."""
    columns = {
        "after a tenth": ("early", ".2f"),
        "log-likelihood": ("likelihood", ".2f"),
        "on test samples": ("test_likelihood", ".2f"),
        "purity (%)": ("purity", ".1f"),
        "mutual information (%)": ("nmi", ".1f"),
        "probe (%)": ("probe", ".2f"),
    }
    rows = []
    order = finals["method"].map(list(METHODS).index), finals["rate"].replace("", "0").astype(float)
    for _, group in finals.astype({"probe": float}).groupby([*order], sort=True):
        method, rate = group[SETTING].iloc[0]
        pace = mean_and_deviation(group["pass_seconds"].mean(), None, ".2f")
        names = {"method": METHODS[method], "rate": rate or "–"}
        rows.append(names | in_words(group, columns) | {"seconds a pass": pace})
    return pd.DataFrame(rows)


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
    rates = best_rates(finals)
    curves = curves[curves["rate"] == curves["method"].map(rates)]
    means = curves.groupby(["method", "pass"], as_index=False)[["seconds", "likelihood"]].mean()
    limit = rows_of(finals, method="kmeans")["likelihood"].mean()
    names = {"pass": "passes", "seconds": "seconds of training"}
    for axes, (column, name) in zip(panels, names.items(), strict=True):
        for method in (*EXPLICIT, *DESCENT):
            colour, line = LOOKS[method]
            for _, curve in rows_of(curves, method=method).groupby("seed"):
                axes.plot(curve[column], curve["likelihood"], line, color=colour, lw=0.5, alpha=0.5)
            mean, label = rows_of(means, method=method), _named(method, rates[method])
            axes.plot(mean[column], mean["likelihood"], line, color=colour, label=label)
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
        "finals": Shown(
            "Every method and rate at its end, over the seeds. Log-likelihoods are in nats a "
            "sample, up to a constant of the samples",
            summary,
        ),
        "steps": Shown(
            "A gradient step with the preconditioner 1 / ⟨r⟩ against an M-step, in float64: their "
            "largest difference, relative; and the rates that the M-step chooses",
            readable_steps,
        ),
        "passes": Shown(
            "Exact EM: the largest fall of the likelihood from one pass to the next, relative; and "
            "how far the runs, in float32, are from float64",
            readable_passes,
        ),
        "free_layer": Shown(
            "The free layer: the objective of the M-step of one row, times a factor. The row is "
            "the M-step of the penalty or, for decay, its own",
            readable_free_layer,
        ),
    },
    pictures={"race": race, "rates": rates, "free_layer": free_rows},
)
