"""Figures 4, 5, 7 and 8: training."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, ScalarFormatter

from implicit_em.experiments.dynamics import POWER_OF_T
from implicit_em.experiments.evidence import Evidence
from implicit_em.experiments.figures.pictures import picture
from implicit_em.studies import figures as style

OPTIMIZERS = {"sgd": ("SGD", style.BLUE, "o"), "adam": ("Adam", style.VERMILION, "s")}
RATES = {1e-4: style.SKY, 1e-3: style.GREEN, 1e-2: style.ORANGE, 1e-1: style.PURPLE}


@picture("figure4", "dynamics")
def dynamics(evidence: Evidence) -> Figure:
    """Convergence epoch, probe and loss over the rate, for both optimizers."""
    figure = Figure(figsize=(style.WIDTH, 2.7))
    panels = figure.subplots(1, 3)
    longest = int(evidence.dynamics["epochs"].max())
    for number, (optimizer, (label, colour, marker)) in enumerate(OPTIMIZERS.items()):
        runs = evidence.dynamics[evidence.dynamics["optimizer"] == optimizer]
        shift = 0.94 if number == 0 else 1 / 0.94
        never = runs[runs["convergence_epoch"].isna()]
        panels[0].plot(
            shift * never["lr"],
            np.full(len(never), 1.08 * longest),
            marker,
            mfc="none",
            color=colour,
            ms=6,
        )
        _with_spread(
            panels[0],
            runs.dropna(subset="convergence_epoch"),
            "convergence_epoch",
            1,
            shift,
            colour,
            marker,
            label,
        )
        _with_spread(panels[1], runs, "probe_accuracy", 100, shift, colour, marker, label)
        _with_spread(panels[2], runs, "final_loss", 1, shift, colour, marker, label)
    panels[0].axhline(1.08 * longest, color=style.GREY, lw=0.8, zorder=0)
    panels[0].set_ylim(0, 1.2 * longest)
    panels[0].text(1.8e-4, 1.105 * longest, "never", fontsize=8, color="#666666")
    for axes, title in zip(
        panels, ("converged at epoch", "probe accuracy (%)", "final loss"), strict=True
    ):
        axes.set(title=title, xscale="log", xlabel="learning rate", xlim=(6e-5, 1.7e-1))
    panels[1].legend(loc="lower right")
    return figure


def _with_spread(
    axes: Axes,
    runs: pd.DataFrame,
    key: str,
    scale: float,
    shift: float,
    colour: str,
    marker: str,
    label: str,
) -> None:
    if runs.empty:
        return
    values = runs.assign(value=scale * runs[key].astype(float))
    groups = values.groupby("lr")["value"]
    rates = shift * np.asarray(groups.mean().index, dtype=float)
    axes.plot(shift * values["lr"], values["value"], ".", color=colour, ms=3, alpha=0.7)
    axes.errorbar(
        rates,
        groups.mean(),
        groups.std(),
        color=colour,
        marker=marker,
        ms=5,
        lw=1,
        capsize=2,
        label=label,
    )


@picture("figure5", "dynamics")
def losses(evidence: Evidence) -> Figure:
    """Curves of the loss and its terms for both optimizers."""
    figure = Figure(figsize=(style.WIDTH, 4.4))
    panels = figure.subplots(2, 4, sharex=True, sharey="col")
    terms = {"loss": "loss", "lse": "LSE", "var": "variance", "tc": "decorrelation"}
    run: Any
    for row, (optimizer, (label, *_)) in zip(panels, OPTIMIZERS.items(), strict=True):
        for run in evidence.dynamics[evidence.dynamics["optimizer"] == optimizer].itertuples():
            for axes, term in zip(row, terms, strict=True):
                axes.plot(
                    run.history["epoch"], run.history[f"train/{term}"], color=RATES[run.lr], lw=0.8
                )
        epochs = np.array([10.0, evidence.dynamics["epochs"].max()])
        if epochs[1] > epochs[0]:
            slope = -64 * POWER_OF_T[optimizer]
            row[0].plot(
                epochs, -350 + slope * np.log(epochs / 10), color=style.BLACK, ls=":", lw=1.2
            )
        row[0].set_ylabel(label)
    for axes, title in zip(panels[0], terms.values(), strict=True):
        axes.set_title(title)
    panels[0, 0].set_xscale("log")
    for axes in panels[1]:
        axes.set_xlabel("epoch")
    handles = [Line2D([], [], color=c, label=f"{rate:g}") for rate, c in RATES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, title="learning rate")
    return figure


@picture("figure7", "dynamics")
def crossings(evidence: Evidence) -> Figure:
    """Epoch of convergence against the width, with the law's two lines."""
    figure = Figure(figsize=(style.WIDTH, 2.9))
    left, right = figure.subplots(1, 2)
    widths = np.sort(evidence.crossings["hidden"].unique()).astype(float)
    for optimizer, (label, colour, marker) in OPTIMIZERS.items():
        rows = evidence.crossings[evidence.crossings["optimizer"] == optimizer]
        one = rows[rows["threshold"] == 1]
        power = POWER_OF_T[optimizer]
        name = f"law, {label}: {'' if power == 1 else power}K"
        for axes in (left, right):
            axes.plot(widths, power * widths, color=colour, ls="--", lw=1, label=name)
        left.plot(one["hidden"], one["measured"], marker, color=colour, ms=6, label=label)
        for threshold, fill in ((0.5, "none"), (2.0, colour)):
            other = rows[rows["threshold"] == threshold]
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
    right.legend(
        handles=[
            Line2D([], [], marker="o", ls="", color="#666666", mfc=fill, label=f"threshold {name}")
            for name, fill in (("0.5", "none"), ("2", "#666666"))
        ]
    )
    return figure


@picture("figure8", "dynamics")
def settling(evidence: Evidence) -> Figure:
    """Angle of the rows, change of the correlations and probe along training."""
    figure = Figure(figsize=(style.WIDTH, 2.6))
    panels = figure.subplots(1, 3)
    keys = {
        "row_angle": "turn of a row (° an epoch)",
        "correlation_change": "change of correlations",
        "probe_accuracy": "probe accuracy (%)",
    }
    for optimizer, (label, colour, marker) in OPTIMIZERS.items():
        runs: Any = evidence.widths
        run = runs[(runs["optimizer"] == optimizer) & (runs["hidden"] == 64)].iloc[0]
        for axes, (key, title) in zip(panels, keys.items(), strict=True):
            curve = run["history"].set_index("epoch")[f"trajectory/{key}"].dropna()
            probe = key == "probe_accuracy"
            axes.plot(
                curve.index,
                100 * curve if probe else curve,
                color=colour,
                marker=marker if probe else "",
                ms=3,
                label=label,
            )
            axes.set(title=title, xscale="log", xlabel="epoch")
            if not probe:
                axes.set_yscale("log")
            if not pd.isna(run["convergence_epoch"]):
                axes.axvline(run["convergence_epoch"], color=colour, ls="--", lw=1)
    for axes in panels:
        axes.title.set_fontsize(8)
    panels[0].legend()
    return figure
