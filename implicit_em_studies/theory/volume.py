"""Experiment: a volume control that ends.

The variance term rewards growing energies for ever. Each candidate bounds the objective below.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from implicit_em.losses import takes_stacks
from implicit_em.metrics.convergence import settling_epoch
from implicit_em.models import Encoder
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Tables
from implicit_em_studies.shared.runs import Run, table
from implicit_em_studies.shared.tables import Cell, history_of, over_seeds, records, rows_of
from implicit_em_studies.theory.matching import probe_at

CANDIDATES = {
    "today": "the paper's",
    "decay": "weight decay",
    "hinge": "variance floor",
    "penalty": "variance penalty",
    "unit": "unit rows",
}
"""Names of the candidates, as the tables show them."""
MIDDLE = 1e-3
"""The rate at which candidates are compared at equal density."""


@takes_stacks
def hinge(energies: Tensor, floor: float = 1.0, eps: float = 1e-4) -> Tensor:
    """Variance floor: ``sum_j max(0, floor - sqrt(Var(E_j) + eps))`` (VICReg, Bardes 2022).

    It is never negative, and does not reward energies that vary more than the floor.
    """
    deviations = (energies.var(-2) + eps).sqrt()
    return (floor - deviations).clamp_min(0).sum(-1)


@takes_stacks
def penalty(energies: Tensor, scale: float = 10.0, eps: float = 1e-6) -> Tensor:
    """Variance with a penalty: ``sum_j Var(E_j) / scale^2 - log(Var(E_j) + eps)``.

    Each unit's part is least where its variance is ``scale^2``.
    """
    variances = energies.var(-2)
    return (variances / scale**2 - (variances + eps).log()).sum(-1)


class UnitRows(Encoder):
    """The derived model with rows of one fixed length: ``E = activation(g W x / |w_j| + b)``.

    Args:
        gain: the length g of the rows.
    """

    takes_stacks = takes_parts = True

    def __init__(
        self, in_features: int, hidden: int = 64, activation: Any = None, gain: float = 4.5
    ) -> None:
        super().__init__(in_features, hidden, activation)
        self.gain = gain

    def forward(self, x: Any) -> Tensor:
        """Return the energies ``(..., K)`` of inputs ``(..., D)``."""
        lengths = self.weight.norm(dim=-1, keepdim=True)
        linear = self.linear(x, torch.zeros_like(self.linear.bias))
        return self.activation(linear * (self.gain / lengths).mT + self.linear.bias.unsqueeze(-2))


def measure(runs: Sequence[Run]) -> Tables:
    """Return ``runs``, one row each, and ``matched``: probes at the density of the paper's."""
    of_each = [
        table(runs, [f"volume_{name}", f"volume_{name}_rates"]).assign(candidate=name)
        for name in CANDIDATES
    ]
    every = pd.concat(of_each, ignore_index=True)
    every["settled"] = every["directory"].map(settled_at)
    columns = ["candidate", "lr", "weight", "seed", "settled", "dead_units", "density"]
    every = every[[*columns, "probe_accuracy", "redundancy", "final_loss", "directory"]]
    return {"runs": every.drop(columns="directory"), "matched": matched(every), **_curves(every)}


def settled_at(directory: object) -> float:
    """Return the epoch at which rows and correlations have settled; NaN for never."""
    history = history_of(directory)
    if "trajectory/row_angle_ten" not in history:  # a run of fewer epochs
        return np.nan
    rows, correlations = (
        settling_epoch(history[name].to_list(), history[f"{name}_ten"].to_list())
        for name in ("trajectory/row_angle", "trajectory/correlation_change")
    )
    return np.nan if rows is None or correlations is None else float(max(rows, correlations))


def matched(runs: pd.DataFrame) -> pd.DataFrame:
    """Return each candidate's probe, one row a seed, at the density of the paper's objective.

    The density is the mean over the seeds at a weight of 1. Between two weights of LSE the probe is
    interpolated linearly; beyond the ends of a candidate's densities it is NaN.
    """
    middle = rows_of(runs, lr=MIDDLE)
    density = float(rows_of(middle, candidate="today", weight=1)["density"].mean())
    rows = []
    for (candidate, seed), curve in middle.groupby(["candidate", "seed"], sort=False):
        probe = probe_at(density, curve)
        rows.append({"candidate": candidate, "seed": seed, "density": density, "probe": probe})
    return pd.DataFrame(rows)


def _curves(runs: pd.DataFrame) -> Tables:
    """Return what rows do along the training of one run each: the paper's, and with decay."""
    kept = ["epoch", "train/loss", "row_angle", "row_angle_ten", "log_variance"]
    shown: Any = runs.query(
        "candidate in ['today', 'decay'] and weight == 1 and seed == seed.min()"
    )
    frames = [
        history_of(run["directory"])
        .rename(columns=lambda name: name.removeprefix("trajectory/"))
        .reindex(columns=kept)
        .assign(candidate=run["candidate"], lr=run["lr"])
        for run in records(shown)
    ]
    return {"curves": pd.concat(frames, ignore_index=True)}


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each candidate, rate and weight, over the seeds."""
    names = {"candidate": "candidate", "rate": "lr", "weight of LSE": "weight"}
    return over_seeds(runs.replace({"candidate": CANDIDATES}), names, CELLS)


def _settled(runs: pd.DataFrame) -> str:
    last, count = runs["settled"].max(), runs["settled"].count()
    return f"{count} of {len(runs)}" + (f", by epoch {last:.0f}" if count else "")


CELLS: Mapping[str, Cell] = {
    "settled": _settled,
    "dead": lambda runs: f"{runs['dead_units'].max():.0f}",
    "density (%)": ("density", ".1f"),
    "probe (%)": ("probe_accuracy", ".2f"),
    "final loss": ("final_loss", ".1f"),
}
"""What the table shows of each setting."""


def settling(tables: Tables) -> Figure:
    """Draw the loss, and how far rows get in ten epochs against one, with and without decay."""
    figure, (left, right) = style.subplots(1, 2, 3.4)
    looks = {"today": style.BLACK, "decay": style.VERMILION}
    for candidate, colour in looks.items():
        curves = rows_of(tables["curves"], candidate=candidate).set_index("epoch").groupby("lr")
        for line, (rate, curve) in zip(["-", "--", ":"], curves, strict=False):
            label = f"{CANDIDATES[candidate]}, rate {rate:g}"
            left.plot(curve["train/loss"], line, color=colour, label=label)
            right.plot(curve["row_angle_ten"] / curve["row_angle"], line, color=colour)
    right.axhline(np.sqrt(10), color=style.GREY, lw=0.8)
    left.set(title="loss", xlabel="epoch")
    right.set(title="angle over ten epochs / over one", xlabel="epoch", yscale="log")
    style.plain_logarithm(right.yaxis)
    style.legend_below(figure, left, 2)
    return figure


def fronts(tables: Tables) -> Figure:
    """Draw the probe over the density of each candidate, at the middle rate."""
    figure, axes = style.subplots(1, 1, 2.8)
    colours = [style.BLACK, style.VERMILION, style.BLUE, style.GREEN, style.PURPLE]
    runs = rows_of(tables["runs"], lr=MIDDLE)
    for (candidate, name), colour in zip(CANDIDATES.items(), colours, strict=True):
        own = rows_of(runs, candidate=candidate)
        means = own.groupby("weight")[["density", "probe_accuracy"]].mean().sort_values("density")
        axes.plot(100 * own["density"], 100 * own["probe_accuracy"], ".", color=colour, ms=4)
        axes.plot(100 * means["density"], 100 * means["probe_accuracy"], color=colour, label=name)
    axes.set(xlabel="density (%)", ylabel="probe accuracy (%)")
    axes.legend()
    return figure


EXPERIMENT = Experiment(
    title="A volume control that ends",
    sweeps=[
        *(f"volume_{candidate}" for candidate in CANDIDATES),
        *(f"volume_{candidate}_rates" for candidate in ("today", "decay", "unit")),
    ],
    protocol="c212df73d2785d63",
    measure=measure,
    shown={"runs": summary},
    pictures={"settling": settling, "fronts": fronts},
)
