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
from implicit_em_studies.paper.tables import as_text, beside_published, shown
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Measured, Shown
from implicit_em_studies.shared.runs import Run, table
from implicit_em_studies.shared.tables import history_of, rows_of

OPTIMIZERS = {"sgd": ("SGD", style.BLUE, "o"), "adam": ("Adam", style.VERMILION, "s")}
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
    figure, panels = style.subplots(1, 3, 2.7)
    every = measured["dynamics"]
    titles = {
        "convergence_epoch": "converged at epoch",
        "probe_accuracy": "probe accuracy (%)",
        "final_loss": "final loss",
    }
    longest = int(every["epochs"].max())
    for shift, (optimizer, look) in zip((0.94, 1 / 0.94), OPTIMIZERS.items(), strict=True):
        runs = rows_of(every, optimizer=optimizer)
        runs = runs.assign(lr=shift * runs["lr"], probe_accuracy=100 * runs["probe_accuracy"])
        never = runs.loc[runs["convergence_epoch"].isna(), "lr"]
        _, colour, marker = look
        height = np.full(len(never), 1.08 * longest)
        panels[0].plot(never, height, marker, mfc="none", color=colour, ms=6)
        for axes, (key, title) in zip(panels, titles.items(), strict=True):
            _over_rate(axes, runs.dropna(subset=key), key, look)
            axes.set(title=title, xscale="log", xlabel="learning rate", xlim=(6e-5, 1.7e-1))
    panels[0].axhline(1.08 * longest, color=style.GREY, lw=0.8, zorder=0)
    panels[0].set_ylim(0, 1.2 * longest)
    panels[0].text(1.8e-4, 1.105 * longest, "never", fontsize=8, color="#666666")
    panels[1].legend(loc="lower right")
    return figure


def _over_rate(axes: Axes, runs: pd.DataFrame, key: str, look: tuple[str, str, str]) -> None:
    """Draw each run as a dot, and mean ± deviation of the runs at each rate."""
    if runs.empty:
        return
    label, colour, marker = look
    axes.plot(runs["lr"], runs[key], ".", color=colour, ms=3, alpha=0.7)
    at_rate = runs[key].astype(float).groupby(runs["lr"]).agg(["mean", "std"])
    points: Any = (at_rate.index, at_rate["mean"], at_rate["std"])
    axes.errorbar(*points, color=colour, marker=marker, ms=5, lw=1, capsize=2, label=label)


def losses(measured: Measured) -> Figure:
    """Draw the curves of the loss and its terms for both optimizers."""
    figure, panels = style.subplots(2, 4, 4.4, sharex=True, sharey="col")
    runs = measured["dynamics"]
    terms = {"loss": "loss", "lse": "LSE", "var": "variance", "tc": "decorrelation"}
    run: Any
    for row, (optimizer, (label, *_)) in zip(panels, OPTIMIZERS.items(), strict=True):
        for run in rows_of(runs, optimizer=optimizer).itertuples():
            curves = run.history.set_index("epoch")
            for axes, term in zip(row, terms, strict=True):
                axes.plot(curves[f"train/{term}"], color=RATES[run.lr], lw=0.8)
        ends = np.array([10.0, runs["epochs"].max()])
        if ends[1] > ends[0]:
            law = -350 - 64 * POWER_OF_T[optimizer] * np.log(ends / 10)
            row[0].plot(ends, law, color=style.BLACK, ls=":", lw=1.2)
        row[0].set_ylabel(label)
    for (upper, lower), title in zip(panels.T, terms.values(), strict=True):
        upper.set(title=title, xscale="log")
        lower.set_xlabel("epoch")
    handles = [Line2D([], [], color=c, label=f"{rate:g}") for rate, c in RATES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, title="learning rate")
    return figure


def crossings(measured: Measured) -> Figure:
    """Draw the epoch of convergence against the width, with the law's two lines."""
    figure, (left, right) = style.subplots(1, 2, 2.9)
    every = measured["crossings"]
    widths = np.sort(every["hidden"].unique()).astype(float)
    for optimizer, (label, colour, marker) in OPTIMIZERS.items():
        rows = rows_of(every, optimizer=optimizer)
        one = rows_of(rows, threshold=1)
        power = POWER_OF_T[optimizer]
        name = f"law, {label}: {'' if power == 1 else power}K"
        for axes in (left, right):
            axes.plot(widths, power * widths, color=colour, ls="--", lw=1, label=name)
        left.plot(one["hidden"], one["measured"], marker, color=colour, ms=6, label=label)
        for threshold, fill in ((0.5, "none"), (2.0, colour)):
            other = rows_of(rows, threshold=threshold)
            scaled = other["measured"] * threshold
            right.plot(other["hidden"], scaled, marker, color=colour, mfc=fill, ms=6)
    left.set(title="threshold 1", ylabel="epoch of convergence")
    right.set(title="thresholds 0.5 and 2", ylabel="epoch × threshold")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="width K")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
        axes.set_xticks(widths, minor=False)
        axes.set_yticks([8, 16, 32, 64, 128, 256])
    left.legend()
    look: Any = {"marker": "o", "ls": "", "color": "#666666"}
    open_one = Line2D([], [], mfc="none", label="threshold 0.5", **look)
    right.legend(handles=[open_one, Line2D([], [], label="threshold 2", **look)])
    return figure


def settling(measured: Measured) -> Figure:
    """Draw the turn of the rows, the change of the correlations and the probe along training."""
    figure, panels = style.subplots(1, 3, 2.6)
    runs = measured["widths"]
    keys = {
        "row_angle": "turn of a row (° an epoch)",
        "correlation_change": "change of correlations",
        "probe_accuracy": "probe accuracy (%)",
    }
    for optimizer, (label, colour, marker) in OPTIMIZERS.items():
        run: Any = rows_of(runs, optimizer=optimizer, hidden=64).iloc[0]
        for axes, (key, title) in zip(panels, keys.items(), strict=True):
            curve = run["history"].set_index("epoch")[f"trajectory/{key}"].dropna()
            axes.set_title(title, fontsize=8)
            axes.set(xscale="log", xlabel="epoch")
            if key == "probe_accuracy":
                axes.plot(100 * curve, color=colour, marker=marker, ms=3, label=label)
            else:
                axes.plot(curve, color=colour, label=label)
                axes.set_yscale("log")
            if not pd.isna(run["convergence_epoch"]):
                axes.axvline(run["convergence_epoch"], color=colour, ls="--", lw=1)
    panels[0].legend()
    return figure


EXPERIMENT = Experiment(
    title="Experiment 4: dynamics",
    sweeps=["dynamics", "width_sgd", "width_adam"],
    protocol="47bc368f966e9fe5",
    measure=measure,
    shown={
        "table3": shown("table3"),
        "crossings": Shown(
            "Epoch of convergence: predicted by the law, and measured", _thresholds_side_by_side
        ),
        "trends": Shown(
            "Growth: exponent of the variances in t, slope of the loss in log t, from epoch 10 on; "
            "dead units at the end",
            as_text,
        ),
        "settling": Shown(
            "At the paper's epoch of convergence and at the run's end: turn of the rows (degrees "
            "an epoch), change of the correlations (RMS an epoch), probe accuracy; and the fall of "
            "the loss after it",
            as_text,
        ),
    },
    pictures={"figure4": dynamics, "figure5": losses, "figure7": crossings, "figure8": settling},
    unwritten=["dynamics", "widths", "deviations"],
)
