"""Experiment 1, the theorem: the identity of gradient and responsibility."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import implicit_em
from implicit_em_studies.paper.identity import draws, pairs, through_encoder
from implicit_em_studies.paper.tables import NOTHING, as_text
from implicit_em_studies.shared.experiment import Experiment, Tables
from implicit_em_studies.shared.figures import BLUE, GREY, ORANGE, SKY, VERMILION, subplots
from implicit_em_studies.shared.measurements import samples_of
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.tables import history_of, rows_of

IDENTITY_IMAGES = 128
SMALLEST_SHOWN = 1e-20  # the closed form's error vanishes if one component takes everything


def measure(runs: Sequence[Run]) -> Tables:
    """Return the identity in ``draws``, through the ``encoder``, and along its ``training``."""
    _, _, images, _ = samples_of(runs[0])
    encoder: Any = implicit_em.load(runs[0].directory)
    return {
        "draws": draws(),
        "encoder": through_encoder(encoder, images[:IDENTITY_IMAGES]),
        "training": history_of(runs[0].directory),
    }


def _errors_by_draw(draws: pd.DataFrame) -> pd.DataFrame:
    """Put the precisions and gradients of a draw side by side."""
    case = ["batch", "components", "scale"]
    parts: dict[str, pd.Series] = {}
    for dtype, both in draws.set_index(case).groupby("dtype"):
        rows, closed = (rows_of(both, gradient=way) for way in ("autograd", "closed form"))
        parts |= {
            f"{dtype}: correlation": rows["correlation"].map("{:.4f}".format),
            f"max error {dtype}": rows["max_error"],
            f"mean error {dtype}": rows["mean_error"],
            f"bound {dtype}": rows["bound"],
            f"closed form {dtype}": closed["max_error"],
        }
    return as_text(pd.DataFrame(parts).reset_index().replace("nan", NOTHING))


def _extremes_along_training(history: pd.DataFrame) -> pd.DataFrame:
    extremes = {
        "epochs": len(history),
        "smallest correlation": f"{history['trajectory/identity_correlation'].min():.4f}",
        "largest error": history["trajectory/identity_error"].max(),
    }
    return as_text(pd.DataFrame([extremes]))


def identity(tables: Tables) -> Figure:
    """Draw the gradient against the responsibility, and the error's growth with the energies."""
    figure, (left, right) = subplots(1, 2, 2.9)
    gradient, responsibility = pairs()
    _plot_identity(left, gradient, responsibility)
    draws = tables["draws"]
    shaped = rows_of(draws, batch=64, components=128).sort_values("scale")
    looks = {
        ("float32", "autograd"): (VERMILION, "o"),
        ("float32", "closed form"): (ORANGE, "^"),
        ("float64", "autograd"): (BLUE, "s"),
        ("float64", "closed form"): (SKY, "v"),
    }
    for (dtype, way), (colour, marker) in looks.items():
        rows = rows_of(shaped, dtype=dtype, gradient=way)
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


EXPERIMENT = Experiment(
    title="Experiment 1: the theorem",
    sweeps=["theorem"],
    protocol="111a8ff2da30ed65",
    measure=measure,
    shown={"draws": _errors_by_draw, "encoder": as_text, "training": _extremes_along_training},
    pictures={"figure1": identity},
)
