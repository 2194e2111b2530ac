"""Figure 1: gradient against responsibility."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from implicit_em_studies.paper.evidence import Evidence
from implicit_em_studies.paper.identity import pairs
from implicit_em_studies.shared.figures import BLUE, GREY, ORANGE, SKY, VERMILION, WIDTH

SMALLEST_SHOWN = 1e-20  # the closed form's error vanishes if one component takes everything


def identity(evidence: Evidence) -> Figure:
    """Draw the gradient against the responsibility, and the error's growth with the energies."""
    figure = Figure(figsize=(WIDTH, 2.9))
    left, right = figure.subplots(1, 2)
    gradient, responsibility = pairs()
    _plot_identity(left, gradient, responsibility)
    draws = evidence.draws
    shaped = draws[(draws["batch"] == 64) & (draws["components"] == 128)].sort_values("scale")
    looks = {
        ("float32", "autograd"): (VERMILION, "o"),
        ("float32", "closed form"): (ORANGE, "^"),
        ("float64", "autograd"): (BLUE, "s"),
        ("float64", "closed form"): (SKY, "v"),
    }
    for (dtype, way), (colour, marker) in looks.items():
        rows = shaped[(shaped["dtype"] == dtype) & (shaped["gradient"] == way)]
        seen = rows["max_error"].where(rows["max_error"] > SMALLEST_SHOWN)
        name = f"{dtype}, {way}"
        right.plot(rows["scale"], seen, color=colour, marker=marker, ms=4, label=name)
        if way == "autograd":
            right.plot(rows["scale"], rows["bound"], color=colour, ls="--", lw=1)
    right.set(xscale="log", yscale="log", xlabel="scale of the energies", ylabel="largest |error|")
    right.set_ylim(SMALLEST_SHOWN, 1e4)
    right.legend(
        ncols=2, loc="upper left", columnspacing=0.8, handlelength=1.2, fontsize=7, borderpad=0
    )
    return figure


def _plot_identity(axes: Axes, gradient: np.ndarray, responsibility: np.ndarray) -> None:
    low, high = responsibility.min() / 1.5, responsibility.max() * 1.5
    axes.plot([low, high], [low, high], color=GREY, lw=1, label="y = x")
    look: Any = {"s": 9, "color": BLUE, "lw": 0, "zorder": 3, "rasterized": True}
    axes.scatter(responsibility, gradient, label="8,192 pairs", **look)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel="responsibility  softmax(-E)", ylabel="gradient  ∂LSE/∂E")
    axes.legend(loc="upper left", markerscale=2)
