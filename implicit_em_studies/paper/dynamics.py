"""Experiment 4, dynamics: two optimizers, four rates, four widths."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, ScalarFormatter

from implicit_em_studies.paper import convergence
from implicit_em_studies.paper.convergence import POWER_OF_T
from implicit_em_studies.paper.tables import as_text, beside_published, printed
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Measured
from implicit_em_studies.shared.runs import Run, table
from implicit_em_studies.shared.tables import history_of, rows_of

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"label": "SGD", "color": style.BLUE, "marker": "o"},
    "adam": {"label": "Adam", "color": style.VERMILION, "marker": "s"},
}
RATES = {1e-4: style.SKY, 1e-3: style.GREEN, 1e-2: style.ORANGE, 1e-1: style.PURPLE}


def measure(runs: Sequence[Run]) -> Measured:
    """Return the runs of the ``dynamics`` and of the ``widths`` with their ``history``.

    Beside them, table 3 and what ``convergence`` says of the widths.
    """
    dynamics, widths = (
        table(runs, sweeps).assign(history=lambda rows: rows["directory"].map(history_of))
        for sweeps in (["dynamics"], ["width_sgd", "width_adam"])
    )
    return {
        "dynamics": dynamics,
        "widths": widths,
        **beside_published("table3", dynamics),
        "crossings": convergence.crossings(widths),
        "trends": convergence.trends(widths),
        "settling": convergence.settling(widths),
    }


def _thresholds_side_by_side(crossings: pd.DataFrame) -> pd.DataFrame:
    numbers = ["predicted", "measured"]
    beyond = "beyond " + crossings["epochs"].astype(str)
    texts = crossings.assign(**crossings[numbers].map("{:.0f}".format))
    texts["measured"] = texts["measured"].mask(crossings["measured"].isna(), beyond)
    wide = texts.pivot(index=["optimizer", "hidden"], columns="threshold", values=numbers)
    wide = wide.sort_index(axis=1, level="threshold", sort_remaining=False)
    wide.columns = wide.columns.map("threshold {0[1]:g}, {0[0]}".format)
    return as_text(wide.reset_index())


def dynamics(measured: Measured) -> Figure:
    """Draw convergence epoch, probe and loss over the rate, for both optimizers."""
    titles = {
        "convergence_epoch": "converged at epoch",
        "probe_accuracy": "probe accuracy (%)",
        "final_loss": "final loss",
    }
    figure, panels = style.row(titles, 2.7)
    converged, probe, _ = panels.values()
    every = measured["dynamics"]
    top = 1.08 * every["epochs"].max()
    for shift, (optimizer, look) in zip((0.94, 1 / 0.94), OPTIMIZERS.items(), strict=True):
        runs = rows_of(every, optimizer=optimizer)
        runs = runs.assign(lr=shift * runs["lr"], probe_accuracy=100 * runs["probe_accuracy"])
        never = runs.loc[runs["convergence_epoch"].isna(), "lr"]
        hollow = look | {"label": None, "mfc": "none", "ls": "", "ms": 6}
        converged.plot(never, np.full(len(never), top), **hollow)
        for key, axes in panels.items():
            _over_rate(axes, runs.dropna(subset=key), key, look)
            axes.set(xscale="log", xlabel="learning rate", xlim=(6e-5, 1.7e-1))
    converged.axhline(top, color=style.GREY, lw=0.8, zorder=0)
    converged.set_ylim(0, top / 0.9)
    converged.text(1.8e-4, 1.105 / 1.08 * top, "never", fontsize=8, color="#666666")
    probe.legend(loc="lower right")
    return figure


def _over_rate(axes: Axes, runs: pd.DataFrame, key: str, look: dict[str, Any]) -> None:
    """Draw each run as a dot, and mean ± deviation of the runs at each rate."""
    if runs.empty:
        return
    axes.plot(runs["lr"], runs[key], ".", color=look["color"], ms=3, alpha=0.7)
    at_rate = runs[key].astype(float).groupby(runs["lr"]).agg(["mean", "std"])
    points: Any = (at_rate.index, at_rate["mean"], at_rate["std"])
    axes.errorbar(*points, ms=5, lw=1, capsize=2, **look)


def losses(measured: Measured) -> Figure:
    """Draw the curves of the loss and its terms for both optimizers."""
    figure, panels = style.subplots(2, 4, 4.4, sharex=True, sharey="col")
    runs = measured["dynamics"]
    last = runs["epochs"].max()
    terms = {"loss": "loss", "lse": "LSE", "var": "variance", "tc": "decorrelation"}
    run: Any
    for row, (optimizer, look) in zip(panels, OPTIMIZERS.items(), strict=True):
        for run in rows_of(runs, optimizer=optimizer).itertuples():
            curves = run.history.set_index("epoch")
            for axes, term in zip(row, terms, strict=True):
                axes.plot(curves[f"train/{term}"], color=RATES[run.lr], lw=0.8)
        if last > 10:
            fall = 64 * POWER_OF_T[optimizer] * np.log(last / 10)
            row[0].plot([10.0, last], [-350, -350 - fall], color=style.BLACK, ls=":", lw=1.2)
        row[0].set_ylabel(look["label"])
    for (upper, lower), title in zip(panels.T, terms.values(), strict=True):
        upper.set(title=title, xscale="log")
        lower.set_xlabel("epoch")
    handles = [Line2D([], [], color=c, label=f"{rate:g}") for rate, c in RATES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, title="learning rate")
    return figure


def crossings(measured: Measured) -> Figure:
    """Draw the epoch of convergence against the width, with the law's two lines."""
    titles = {"one": "threshold 1", "others": "thresholds 0.5 and 2"}
    figure, panels = style.row(titles, 2.9)
    left, right = panels.values()
    every = measured["crossings"]
    widths = np.sort(every["hidden"].unique()).astype(float)
    for optimizer, look in OPTIMIZERS.items():
        rows, power = rows_of(every, optimizer=optimizer), POWER_OF_T[optimizer]
        name = f"law, {look['label']}: {'' if power == 1 else power}K"
        for axes in (left, right):
            axes.plot(widths, power * widths, color=look["color"], ls="--", lw=1, label=name)
        one = rows_of(rows, threshold=1)
        left.plot(one["hidden"], one["measured"], ls="", ms=6, **look)
        for threshold, fill in ((0.5, "none"), (2.0, look["color"])):
            other = rows_of(rows, threshold=threshold)
            scaled = other["measured"] * threshold
            right.plot(other["hidden"], scaled, ls="", mfc=fill, ms=6, **look | {"label": None})
    left.set_ylabel("epoch of convergence")
    right.set_ylabel("epoch × threshold")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="width K")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
        axes.set_xticks(widths, minor=False)
        axes.set_yticks([8, 16, 32, 64, 128, 256])
    left.legend()
    fills = {"threshold 0.5": "none", "threshold 2": "#666666"}
    grey: Any = {"marker": "o", "ls": "", "color": "#666666"}
    right.legend(handles=[Line2D([], [], mfc=f, label=name, **grey) for name, f in fills.items()])
    return figure


def settling(measured: Measured) -> Figure:
    """Draw the turn of the rows, the change of the correlations and the probe along training."""
    titles = {
        "row_angle": "turn of a row (° an epoch)",
        "correlation_change": "change of correlations",
        "probe_accuracy": "probe accuracy (%)",
    }
    figure, panels = style.row(titles, 2.6)
    for optimizer, look in OPTIMIZERS.items():
        run: Any = rows_of(measured["widths"], optimizer=optimizer, hidden=64).iloc[0]
        for key, axes in panels.items():
            curve = run["history"].set_index("epoch")[f"trajectory/{key}"].dropna()
            axes.title.set_fontsize(8)
            axes.set(xscale="log", xlabel="epoch")
            if key == "probe_accuracy":
                axes.plot(100 * curve, ms=3, **look)
            else:
                axes.plot(curve, **look | {"marker": ""})
                axes.set_yscale("log")
            if not pd.isna(run["convergence_epoch"]):
                axes.axvline(run["convergence_epoch"], color=look["color"], ls="--", lw=1)
    panels["row_angle"].legend()
    return figure


EXPERIMENT = Experiment(
    title="Experiment 4: dynamics",
    sweeps=["dynamics", "width_sgd", "width_adam"],
    protocol="47bc368f966e9fe5",
    measure=measure,
    printed={"table3": printed("table3")},
    shown={"crossings": _thresholds_side_by_side, "trends": as_text, "settling": as_text},
    pictures={"figure4": dynamics, "figure5": losses, "figure7": crossings, "figure8": settling},
    unwritten=["dynamics", "widths", "deviations"],
)
