"""Experiment 2, ablation: what each term does."""

from collections.abc import Sequence
from math import log
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

import implicit_em
from implicit_em.metrics import Redundancy
from implicit_em.training.measurement import energies_of
from implicit_em_studies.paper.tables import beside_published, printed
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Measured
from implicit_em_studies.shared.measurements import samples_of
from implicit_em_studies.shared.runs import Run, table

LOSSES = {
    "lse": "LSE",
    "lse_var": "LSE + var",
    "lse_var_tc": "LSE + var + tc",
    "var_tc": "var + tc",
}


def measure(runs: Sequence[Run]) -> Measured:
    """Return the runs as ``ablation``, table 1, and ``correlations`` ``(K, K)`` of one seed."""
    ablation = table(runs, ["ablation"])
    _, _, images, _ = samples_of(runs[0])
    correlations = {}
    run: Any
    for run in ablation[ablation["seed"] == ablation["seed"].min()].itertuples():
        energies_NK = torch.from_numpy(energies_of(implicit_em.load(run.directory), images))
        moments = Redundancy(energies_NK.shape[1])
        moments.update(energies_NK)
        correlations[run.loss] = moments.correlation_KK.numpy()
    compared = beside_published("table1", ablation)
    return {"ablation": ablation, "correlations": correlations, **compared}


def ablation(measured: Measured) -> Figure:
    """Draw dead units, redundancy and responsibility entropy of each loss."""
    titles = {
        "dead_units": "dead units (of 64)",
        "redundancy": "redundancy  ‖Corr - I‖²",
        "responsibility_entropy": "responsibility entropy (nats)",
    }
    figure, panels = style.row(titles, 2.7)
    for key, axes in panels.items():
        _bars(axes, measured["ablation"].set_index("loss")[key].astype(float).dropna())
        axes.grid(axis="x", visible=False)
    dead, redundancy, entropy = panels.values()
    dead.set_ylim(0, 72)
    redundancy.set(yscale="log", ylim=(10, 6000))
    redundancy.yaxis.set_major_formatter(ScalarFormatter())
    entropy.axhline(log(64), color=style.GREY, ls="--", lw=1, zorder=0)
    entropy.text(3.55, log(64) + 0.06, "ln 64", color="#666666", ha="right", fontsize=8)
    entropy.set_ylim(0, 4.9)
    return figure


def _bars(axes: Axes, values: pd.Series) -> None:
    """Draw the values of each loss, and write their mean."""
    colours = (style.GREY, style.ORANGE, style.BLUE, style.GREEN)
    text: Any = {"ha": "center", "fontsize": 8}
    for x, (loss, colour) in enumerate(zip(LOSSES, colours, strict=True)):
        own = values[values.index == loss]
        if own.empty:
            place = axes.get_xaxis_transform()
            axes.text(x, 0.03, "undefined", color="#666666", rotation=90, transform=place, **text)
            continue
        style.bar(axes, x, own, 0.7, 0.15, color=colour)
        mean = f"{own.mean():{'.2f' if values.name == 'responsibility_entropy' else ',.0f'}}"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        top = (x, own.max())
        axes.annotate(mean, top, (0, 4), textcoords="offset points", bbox=box, **text)
    axes.set_xlim(-0.6, len(LOSSES) - 0.4)
    axes.set_xticks(range(len(LOSSES)), list(LOSSES.values()), rotation=28, ha="right")


def correlations(measured: Measured) -> Figure:
    """Draw the correlation matrix of each loss of the ablation."""
    figure, panels = style.row(LOSSES, 2.1)
    colours = mpl.colormaps["PuOr"].with_extremes(bad="#e6e6e6")
    for loss, axes in panels.items():
        matrix_KK = measured["correlations"][loss]
        varies_K = matrix_KK.diagonal() > 0
        shown = np.where(varies_K[:, None] & varies_K, matrix_KK, np.nan)
        image = axes.imshow(shown, cmap=colours, vmin=-1, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        if not varies_K.any():
            place = axes.transAxes
            axes.text(0.5, 0.5, "no unit varies", ha="center", va="center", transform=place)
    figure.colorbar(image, ax=[*panels.values()], label="correlation", shrink=0.9)
    return figure


EXPERIMENT = Experiment(
    title="Experiment 2: ablation",
    sweeps=["ablation"],
    protocol="5d51a0dceb498046",
    measure=measure,
    printed={"table1": printed("table1")},
    pictures={"figure2": ablation, "figure6": correlations},
    unwritten=["ablation", "correlations", "deviations"],
)
