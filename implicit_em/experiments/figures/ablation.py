"""Figures 2 and 6: what each term does."""

from math import log

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from implicit_em.experiments.evidence import Evidence
from implicit_em.experiments.figures.pictures import picture
from implicit_em.studies.figures import BLACK, BLUE, GREEN, GREY, ORANGE, WIDTH

LOSSES = {
    "lse": "LSE",
    "lse_var": "LSE + var",
    "lse_var_tc": "LSE + var + tc",
    "var_tc": "var + tc",
}


@picture("figure2", "ablation")
def ablation(evidence: Evidence) -> Figure:
    """Dead units, redundancy on a logarithmic scale, and responsibility entropy of each loss."""
    figure = Figure(figsize=(WIDTH, 2.7))
    panels = figure.subplots(1, 3)
    for axes, key, label in zip(
        panels,
        ("dead_units", "redundancy", "responsibility_entropy"),
        ("dead units (of 64)", "redundancy  ‖Corr - I‖²", "responsibility entropy (nats)"),
        strict=True,
    ):
        _bars(axes, evidence.ablation, key)
        axes.set_title(label)
        axes.grid(axis="x", visible=False)
    panels[0].set_ylim(0, 72)
    panels[1].set(yscale="log", ylim=(10, 6000))
    panels[1].yaxis.set_major_formatter(ScalarFormatter())
    panels[2].axhline(log(64), color=GREY, ls="--", lw=1, zorder=0)
    panels[2].text(3.55, log(64) + 0.06, "ln 64", color="#666666", ha="right", fontsize=8)
    panels[2].set_ylim(0, 4.9)
    return figure


def _bars(axes: Axes, runs: pd.DataFrame, key: str) -> None:
    for x, (loss, colour) in enumerate(zip(LOSSES, (GREY, ORANGE, BLUE, GREEN), strict=True)):
        values = pd.to_numeric(runs.loc[runs["loss"] == loss, key], errors="coerce").dropna()
        if values.empty:
            axes.text(
                x,
                0.03,
                "undefined",
                rotation=90,
                fontsize=8,
                ha="center",
                color="#666666",
                transform=axes.get_xaxis_transform(),
            )
            continue
        mean = values.mean()
        axes.bar(x, mean, color=colour, width=0.7)
        axes.plot(x + np.linspace(-0.15, 0.15, len(values)), values, ".", color=BLACK, ms=4)
        text = f"{mean:,.0f}" if key != "responsibility_entropy" else f"{mean:.2f}"
        axes.annotate(
            text,
            (x, max(mean, values.max())),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    axes.set_xlim(-0.6, len(LOSSES) - 0.4)
    axes.set_xticks(range(len(LOSSES)), list(LOSSES.values()), rotation=28, ha="right")


@picture("figure6", "ablation")
def correlations(evidence: Evidence) -> Figure:
    """The correlation matrix of each loss of the ablation."""
    figure = Figure(figsize=(WIDTH, 2.1))
    panels = figure.subplots(1, len(LOSSES))
    for axes, (loss, label) in zip(panels, LOSSES.items(), strict=True):
        matrix_KK = evidence.correlations[loss]
        varies_K = matrix_KK.diagonal() > 0
        shown = np.where(varies_K[:, None] & varies_K, matrix_KK, np.nan)
        colours = mpl.colormaps["PuOr"].with_extremes(bad="#e6e6e6")
        image = axes.imshow(shown, cmap=colours, vmin=-1, vmax=1)
        axes.set_title(label)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        if not varies_K.any():
            axes.text(
                0.5, 0.5, "no unit varies", ha="center", va="center", transform=axes.transAxes
            )
    figure.colorbar(image, ax=panels, label="correlation", shrink=0.9)
    return figure
