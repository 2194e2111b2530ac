"""The figures of the study: vector text, colours that the colour-blind can tell apart."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, ScalarFormatter

from implicit_em.experiments import theorem
from implicit_em.experiments.dynamics import POWER_OF_T
from implicit_em.experiments.evidence import Evidence
from implicit_em.features import draw_grid
from implicit_em.files import whole

# Okabe and Ito's palette.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY = [
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#999999",
]
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: text stays text
    "figure.constrained_layout.use": True,
}
WIDTH = 7.0
"""Inches: a page's text."""
RESOLUTION = 200
SMALLEST_SHOWN = 1e-20
"""Of the errors: the closed form's vanish where one component takes all responsibility."""

LOSSES = {
    "lse": "LSE",
    "lse_var": "LSE + var",
    "lse_var_tc": "LSE + var + tc",
    "var_tc": "var + tc",
}
OPTIMIZERS = {"sgd": ("SGD", BLUE, "o"), "adam": ("Adam", VERMILION, "s")}
RATES = {1e-4: SKY, 1e-3: GREEN, 1e-2: ORANGE, 1e-1: PURPLE}


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Args:
        experiment: that it belongs to.
        caption: what it shows.
        draw: makes it of the evidence.

    """

    experiment: str
    caption: str
    draw: Callable[[Evidence], Figure]


PICTURES: dict[str, Picture] = {}


def picture(
    name: str, experiment: str, caption: str
) -> Callable[[Callable[[Evidence], Figure]], Callable[[Evidence], Figure]]:
    """Make a picture of the report of a function that draws it."""

    def register(draw: Callable[[Evidence], Figure]) -> Callable[[Evidence], Figure]:
        PICTURES[name] = Picture(experiment, caption, draw)
        return draw

    return register


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the report."""
    with mpl.rc_context(STYLE):
        yield


def save(name: str, evidence: Evidence, directory: Path, trial: str | None) -> None:
    """Draw a picture and write it as PNG and PDF; that of a trial says so."""
    with style():
        figure = PICTURES[name].draw(evidence)
        if trial:
            figure.suptitle(trial, color=VERMILION, fontsize=9)
        for kind in ("png", "pdf"):
            with whole(directory / f"{name}.{kind}") as temporary:
                metadata = {"CreationDate": None} if kind == "pdf" else None
                figure.savefig(temporary, format=kind, dpi=RESOLUTION, metadata=metadata)


@picture(
    "figure1",
    "theorem",
    "The gradient of LSE is the responsibility. Left: autograd's gradient against softmax(-E) on "
    "the 64 × 128 standard-normal draw, float32. Right: the largest difference on draws of "
    "another scale; dashed, the bound eps · (1 + max|E|) that rounding sets.",
)
def identity(evidence: Evidence) -> Figure:
    """Gradient against responsibility, and the error's growth with the energies' scale."""
    figure = Figure(figsize=(WIDTH, 2.9))
    left, right = figure.subplots(1, 2)
    gradient, responsibility = theorem.pairs()
    _plot_identity(left, gradient, responsibility)
    draws = evidence.draws
    shaped = draws[(draws["batch"] == 64) & (draws["components"] == 128)].sort_values("scale")
    looks = {
        ("float32", "autograd"): (VERMILION, "o", "float32, autograd"),
        ("float32", "closed form"): (ORANGE, "^", "float32, closed form"),
        ("float64", "autograd"): (BLUE, "s", "float64, autograd"),
        ("float64", "closed form"): (SKY, "v", "float64, closed form"),
    }
    for (dtype, way), (colour, marker, label) in looks.items():
        rows = shaped[(shaped["dtype"] == dtype) & (shaped["gradient"] == way)]
        seen = rows["max_error"].where(rows["max_error"] > SMALLEST_SHOWN)
        right.plot(rows["scale"], seen, color=colour, marker=marker, ms=4, label=label)
        if way == "autograd":
            right.plot(rows["scale"], rows["bound"], color=colour, ls="--", lw=1)
    right.set(xscale="log", yscale="log", xlabel="scale of the energies", ylabel="largest |error|")
    right.set_ylim(SMALLEST_SHOWN, 1e4)
    right.legend(ncols=2, loc="upper left", columnspacing=1, handlelength=1.5)
    return figure


def _plot_identity(axes: Axes, gradient: np.ndarray, responsibility: np.ndarray) -> None:
    low, high = responsibility.min() / 1.5, responsibility.max() * 1.5
    axes.plot([low, high], [low, high], color=GREY, lw=1, label="y = x")
    axes.scatter(
        responsibility,
        gradient,
        s=9,
        color=BLUE,
        lw=0,
        zorder=3,
        rasterized=True,
        label="8,192 pairs",
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="responsibility  softmax(-E)",
        ylabel="gradient  ∂LSE/∂E",
        xlim=(low, high),
        ylim=(low, high),
        aspect="equal",
    )
    axes.legend(loc="upper left", markerscale=2)


@picture(
    "figure2",
    "ablation",
    "Ablation. LSE alone collapses; variance keeps every unit alive; decorrelation removes the "
    "redundancy; without LSE the responsibilities are sharper. Bars: mean over the seeds, dots: "
    "each of them.",
)
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
                x, 0.03, "none", ha="center", color="#666666", transform=axes.get_xaxis_transform()
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


@picture(
    "figure3",
    "features",
    "Features, seed 1, each matrix on a symmetric scale of its own: the derived encoder's rows, "
    "the SAE's encoder rows and its decoder columns. Grey pixels at a grid's border are gaps; "
    "speckle at an image's border is the initial weight of pixels that never vary.",
)
def features(evidence: Evidence) -> Figure:
    """The weight rows of both models as images."""
    figure = Figure(figsize=(WIDTH, 3.4))
    titles = {
        "encoder": "derived: encoder rows",
        "sae encoder": "SAE: encoder rows",
        "sae decoder": "SAE: decoder columns",
    }
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        draw_grid(axes, evidence.weights[name], evidence.sample_shape, bar="bottom")
        axes.set_title(title)
    return figure


@picture(
    "figure4",
    "dynamics",
    "Dynamics after 100 epochs. Left: the epoch at which the paper's rule calls the loss "
    "converged; hollow markers on the top line never met it. Middle and right: probe accuracy "
    "and final loss. Markers: mean over the seeds, bars: standard deviation, small dots: each "
    "seed.",
)
def dynamics(evidence: Evidence) -> Figure:
    """Convergence epoch, probe and loss over the rate, for both optimizers."""
    figure = Figure(figsize=(WIDTH, 2.7))
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
    panels[0].axhline(1.08 * longest, color=GREY, lw=0.8, zorder=0)
    panels[0].set_ylim(0, 1.2 * longest)
    panels[0].text(9e-5, 1.105 * longest, "never", fontsize=8, color="#666666")
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


@picture(
    "figure5",
    "dynamics",
    "The loss and its terms over the epochs (logarithmic), every seed of every rate. From the "
    "tenth epoch on the loss is close to a straight line in log t: dotted, the slopes -64 (SGD) "
    "and -128 (Adam) that variances growing as t and t² give.",
)
def losses(evidence: Evidence) -> Figure:
    """Curves of the loss and its terms for both optimizers."""
    figure = Figure(figsize=(WIDTH, 4.4))
    panels = figure.subplots(2, 4, sharex=True, sharey="col")
    terms = {
        "loss": "loss",
        "lse": "LSE (sum over a batch)",
        "var": "variance",
        "tc": "decorrelation",
    }
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
            row[0].plot(epochs, -350 + slope * np.log(epochs / 10), color=BLACK, ls=":", lw=1.2)
        row[0].set_ylabel(label)
    for axes, title in zip(panels[0], terms.values(), strict=True):
        axes.set_title(title)
    panels[0, 0].set_xscale("log")
    for axes in panels[1]:
        axes.set_xlabel("epoch")
    handles = [Line2D([], [], color=c, label=f"{rate:g}") for rate, c in RATES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, title="learning rate")
    return figure


@picture(
    "figure6",
    "ablation",
    "Correlations between the 64 components over the test images, seed 1, for each loss. With LSE "
    "alone nothing varies, and there are no correlations.",
)
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


@picture(
    "figure7",
    "dynamics",
    "What the epoch of convergence means: it grows with the width. Left: the paper's rule "
    "(change of the loss below 1.0) at four widths, against K for SGD and 2K for Adam. Right: "
    "other thresholds, epoch times threshold. One seed; a run that ended before it crossed has "
    "no marker.",
)
def crossings(evidence: Evidence) -> Figure:
    """Epoch of convergence against the width, with the law's two lines."""
    figure = Figure(figsize=(WIDTH, 2.9))
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


@picture(
    "figure8",
    "dynamics",
    "Convergence on scales of their own, K = 64: how far the weight rows turn in an epoch, how far "
    "the correlations change, and the probe. Vertical lines: where the paper's rule is met.",
)
def settling(evidence: Evidence) -> Figure:
    """Angle of the rows, change of the correlations and probe along training."""
    figure = Figure(figsize=(WIDTH, 2.6))
    panels = figure.subplots(1, 3)
    keys = {
        "row_angle": "mean turn of a row (degrees an epoch)",
        "correlation_change": "change of correlations (RMS an epoch)",
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


@picture(
    "figure9",
    "features",
    "Prototypes or noise: share of weight rows above the 95th percentile of the same rows with "
    "their pixels permuted, in best |cosine| with a class mean or a k-means centroid, and in "
    "smoothness. Dashed: what noise would reach. Bars: mean over the seeds, dots: each of them.",
)
def prototypes(evidence: Evidence) -> Figure:
    """Shares of rows that are more like the data than their permuted control."""
    figure = Figure(figsize=(WIDTH, 2.6))
    axes = figure.add_subplot()
    measures = {
        "class_mean": "class mean",
        "centroid": "k-means centroid",
        "smoothness": "smoothness",
    }
    matrices = {
        ("encoder", "encoder"): ("derived: encoder rows", BLUE),
        ("sae", "encoder"): ("SAE: encoder rows", ORANGE),
        ("sae", "decoder"): ("SAE: decoder columns", GREEN),
    }
    frame = evidence.features
    for number, ((model, matrix), (label, colour)) in enumerate(matrices.items()):
        rows = frame[(frame["model"] == model) & (frame["matrix"] == matrix)]
        for x, measure in enumerate(measures):
            values = 100 * rows[f"{measure}_share"]
            centre = x + 0.27 * (number - 1)
            axes.bar(centre, values.mean(), 0.25, color=colour, label=label if x == 0 else None)
            spread = centre + np.linspace(-0.06, 0.06, len(values))
            axes.plot(spread, values, ".", color=BLACK, ms=4)
    axes.axhline(5, color=GREY, ls="--", lw=1)
    axes.set_xticks(range(len(measures)), list(measures.values()))
    axes.set(ylabel="rows above the control (%)", ylim=(0, 108))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
