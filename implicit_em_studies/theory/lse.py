"""Experiment: what LSE is, an L1 or a count of active units; what is left of responsibilities.

All energies are divided by the temperature of their run. So responsibilities are ``softmax(-E)``,
and LSE is ``-log sum_j exp(-E_j)``.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import stats
from scipy.special import entr, logsumexp, softmax
from torch import Tensor, nn

from implicit_em.data import as_unit_float
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Tables
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.tables import Cell, over_runs, over_seeds, records, rows_of
from implicit_em_studies.theory.matching import probe_at, purity

ACTIVATIONS = {
    "ReLU": "ReLU",
    "Softplus": "softplus",
    "Abs": "absolute value",
    "Square": "square",
    "Mixture": "explicit mixture",
}
"""Classes of the activations, and of the model that is a density, as the tables show them."""
OBJECTIVES = {0.0: "the paper's objective", 0.1: "with weight decay"}
"""Weights of the decay, as the tables show them."""
LOW, HIGH = 0.1, 3.0
"""Active energies below count by their size, those above as one."""
FORMS = {"soft": "soft count / K", "count": "active units / K", "l1": "sum of E / K"}
UNITS = 64
SHOWN = 500
"""Number of samples in a scatter plot."""


class Square(nn.Module):
    """``z^2 / 2``: the energy of a Gaussian of variance 1 along one direction."""

    takes_stacks = takes_parts = True

    def forward(self, z: Tensor) -> Tensor:
        """Return half the square, elementwise."""
        return z.square() / 2


def excess(energies_NK: np.ndarray) -> np.ndarray:
    """Return ``LSE + log K`` of each sample, shape ``(N,)``: 0 where all energies are 0."""
    return np.log(energies_NK.shape[1]) - logsumexp(-energies_NK, axis=1)


def forms(energies_NK: np.ndarray) -> dict[str, np.ndarray]:
    """Return what ``LSE + log K`` may be, each of shape ``(N,)``.

    With s the ``soft`` count divided by K, it is ``-log(1 - s)``, which is about s for a few active
    units. Where active energies are far above 1, s is the ``count``; far below 1, it is the ``l1``.
    """
    return {
        "soft": -np.expm1(-energies_NK).mean(1),
        "count": (energies_NK > 0).mean(1),
        "l1": energies_NK.mean(1),
    }


def regimes(energies_NK: np.ndarray) -> dict[str, float]:
    """Return where the active energies stand, and how well each form explains ``LSE + log K``.

    ``*_explains`` is the squared correlation over the samples, ``*_slope`` the slope of the line;
    both are NaN for a form that does not vary.
    """
    active = energies_NK[energies_NK > 0]
    below, above = float((active < LOW).mean()), float((active > HIGH).mean())
    excess_N = excess(energies_NK)
    found = {
        "below": below,
        "between": 1 - below - above,
        "above": above,
        "survival": float(np.exp(-active).mean()),
        "excess": float(excess_N.mean()),
    }
    for name, form_N in forms(energies_NK).items():
        explains, slope = np.nan, np.nan
        if np.ptp(form_N) > 0:
            line = stats.linregress(form_N, excess_N)
            explains, slope = line.rvalue**2, line.slope
        found |= {f"{name}_explains": float(explains), f"{name}_slope": float(slope)}
    return found


def responsibilities(energies_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Return what responsibilities say, and what the least and the largest energy say.

    If a sample draws its unit by its responsibilities, ``of_sample`` is the mutual information of
    unit and sample, in nats, and ``information`` that of unit and label, as a share of the labels'
    entropy. The second cannot be more than the first, and the first is at most ``log K`` minus the
    mean entropy. Where the least energy of each sample is 0, an entropy is at least ``log sum_j
    exp(-E_j)``. Then both are at most the mean of ``LSE + log K``.
    """
    shares_NK = softmax(-energies_NK, axis=1)
    entropies_N = entr(shares_NK).sum(1)
    joint_CK = joint(shares_NK, labels_N)
    of_units, of_labels = stats.entropy(joint_CK.sum(0)), stats.entropy(joint_CK.sum(1))
    known = of_units + of_labels - stats.entropy(joint_CK.ravel())
    return {
        "silent": float((energies_NK <= 0).sum(1).mean()),
        "perplexity": float(np.exp(entropies_N).mean()),
        "perplexity_share": float(np.exp(entropies_N).mean() / energies_NK.shape[1]),
        "largest": float(shares_NK.max(1).mean()),
        "information": float(known / of_labels),
        "of_sample": float(of_units - entropies_N.mean()),
        "purity_least": purity(joint(first(-energies_NK), labels_N)),
        "purity_most": purity(joint(first(energies_NK), labels_N)),
    }


def first(scores_NK: np.ndarray) -> np.ndarray:
    """Return the share of each unit in the largest score of a sample; ties have equal shares."""
    ties_NK = scores_NK == scores_NK.max(1, keepdims=True)
    return ties_NK / ties_NK.sum(1, keepdims=True)


def joint(shares_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return the joint distribution of labels and units, shape ``(C, K)``, which sums to 1."""
    return np.stack([shares_NK[labels_N == c].sum(0) for c in np.unique(labels_N)]) / len(labels_N)


def measure(runs: Sequence[Run]) -> Tables:
    """Return ``regimes`` and ``responsibilities``, a row for each run, and ``samples`` to plot."""
    images, labels = runs[0].spec.build_data().final_samples()
    x, labels_N = as_unit_float(images), labels.numpy()
    regime, responsible, points = [], [], []
    for run in runs:
        settings = _settings(run)
        with torch.no_grad():
            energies_NK = run.model().encode(x).double().numpy() / settings["temperature"]
        metrics = {name: run.metrics().get(name) for name in ("density", "probe_accuracy")}
        responsible.append(settings | metrics | responsibilities(energies_NK, labels_N))
        if settings["activation"] != "Mixture":  # whose energies have either sign
            regime.append(settings | metrics | regimes(energies_NK))
        shown = energies_NK[:SHOWN]
        points.append(pd.DataFrame(forms(shown) | {"excess": excess(shown)}).assign(**settings))
    table = pd.DataFrame(responsible)
    samples = default(pd.concat(points, ignore_index=True))
    return {
        "regimes": pd.DataFrame(regime),
        "responsibilities": table.assign(probe_at_one=probes_at_one(table)),
        "samples": samples[samples["seed"] == samples["seed"].min()],
    }


def _settings(run: Run) -> dict[str, Any]:
    loss = run.cfg.loss
    kind = run.cfg.model.get("activation") or run.cfg.model
    return {
        "activation": kind._target_.rpartition(".")[2],
        "decay": float(loss.decay.weight) if "decay" in loss else 0.0,
        "temperature": float(loss.lse.temperature or 1),
        "weight": float(loss.lse.weight),
        "seed": run.cfg.seed,
    }


def default(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ReLU with a weight and a temperature of 1: one run a seed and decay."""
    return rows_of(table, activation="ReLU", weight=1, temperature=1)


def probes_at_one(table: pd.DataFrame) -> list[float]:
    """Return for each run the probe at a temperature of 1, at the same density if it can move.

    ReLU is trained with several weights of LSE, which move its density. The other activations are
    hardly ever 0.
    """
    found = []
    for row in records(table):
        alike = {key: row[key] for key in ("activation", "decay", "seed")}
        curve = rows_of(table, temperature=1, **alike)
        alone = len(curve) == 1
        found.append(curve["probe_accuracy"].iloc[0] if alone else probe_at(row["density"], curve))
    return found


def _explained(form: str, runs: pd.DataFrame) -> str:
    """Return how much of ``LSE + log K`` a form explains, and the slope of the line."""
    explains, slope = runs[f"{form}_explains"], runs[f"{form}_slope"]
    return f"{over_runs(explains, '.3f')} ({over_runs(slope, '.2f')})"


STANDING: Mapping[str, Cell] = {
    "density (%)": ("density", ".1f"),
    "E < 0.1 (%)": ("below", ".1f"),
    "E > 3 (%)": ("above", ".1f"),
    "mean e^-E": ("survival", ".3f"),
    "LSE + log K": ("excess", ".3f"),
    **{f"R² (slope), {name}": partial(_explained, form) for form, name in FORMS.items()},
}
"""Where energies stand, and what explains ``LSE + log K``."""
MEANING: Mapping[str, Cell] = {
    "silent units": ("silent", ".1f"),
    "perplexity": ("perplexity", ".1f"),
    "largest": ("largest", ".3f"),
    "says of the sample (nats)": ("of_sample", ".3f"),
    "says of the label (%)": ("information", ".1f"),
    "purity, least E (%)": ("purity_least", ".1f"),
    "purity, largest E (%)": ("purity_most", ".1f"),
    "probe (%)": ("probe_accuracy", ".2f"),
}
"""What responsibilities say."""


def summary(cells: Mapping[str, Cell], table: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each setting, over the seeds."""
    objective = table["decay"].map(OBJECTIVES).mask(table["activation"] == "Mixture", "likelihood")
    named = table.replace({"activation": ACTIVATIONS}).assign(objective=objective)
    names = {name: name for name in ("activation", "objective", "temperature")}
    return over_seeds(named, names | {"weight of LSE": "weight"}, cells)


def where(tables: Tables) -> Figure:
    """Draw where active energies of ReLU stand, at a temperature of 1, by the weight of LSE."""
    relu = tables["regimes"].query("activation == 'ReLU' and temperature == 1")
    looks = {
        "below": (f"E < {LOW:g}", style.SKY),
        "between": ("between", style.GREY),
        "above": (f"E > {HIGH:g}", style.BLUE),
    }
    figure, panels = style.row(OBJECTIVES, 2.5, sharey=True)
    for decay, axes in panels.items():
        shares = 100 * rows_of(relu, decay=decay).groupby("weight")[list(looks)].mean()
        bottoms, positions = shares.cumsum(axis=1) - shares, range(len(shares))
        for key, (label, colour) in looks.items():
            axes.bar(positions, shares[key], 0.7, bottoms[key], color=colour, label=label)
        axes.set_xticks(positions, shares.index.map("{:g}".format))
        axes.set_xlabel("weight of LSE")
    panels[0.0].set_ylabel("active energies (%)")
    style.legend_below(figure, axes)
    return figure


def fits(tables: Tables) -> Figure:
    """Draw ``LSE + log K`` of samples over its three forms, in one run of each objective."""
    figure, panels = style.subplots(1, len(FORMS), 2.8, sharey=True)
    samples = tables["samples"]
    ends = samples["excess"].agg(["min", "max"])
    colours = dict(zip(OBJECTIVES, (style.BLACK, style.VERMILION), strict=True))
    for axes, (form, title) in zip(panels, FORMS.items(), strict=True):
        for decay, colour in colours.items():
            own, name = rows_of(samples, decay=decay), OBJECTIVES[decay]
            axes.plot(own[form], own["excess"], ".", color=colour, ms=2, label=name)
        axes.plot(ends, ends, color=style.GREY, lw=0.8, label="equal")
        axes.set_xlabel(title)
    panels[0].set_ylabel("LSE + log K")
    style.legend_below(figure, panels[0], markerscale=4)
    return figure


LINES = {
    "ReLU": style.BLACK,
    "Softplus": style.ORANGE,
    "Abs": style.BLUE,
    "Square": style.GREEN,
}
"""Colours of the activations."""


def temperatures(tables: Tables) -> Figure:
    """Draw what responsibilities are over the temperature, with weight decay."""
    found = tables["responsibilities"]
    sweep = found.query("decay > 0 and weight == 1")
    titles = {
        "perplexity": "perplexity",
        "information": "said of the label (%)",
        "probe_accuracy": "probe accuracy (%)",
    }
    figure, panels = style.row(titles, 2.8)
    for key, axes in panels.items():
        scale = 100 if "(%)" in titles[key] else 1
        for activation, runs in sweep.groupby("activation", sort=False):
            look = {"color": LINES[str(activation)], "label": ACTIVATIONS[str(activation)]}
            style.dots_and_means(axes, runs["temperature"], scale * runs[key], **look)
        axes.set(xlabel="temperature", xscale="log")
    mixture = found[found["activation"] == "Mixture"]["information"].mean()
    for key, value in {"perplexity": UNITS / 2, "information": 100 * mixture}.items():
        panels[key].axhline(value, color=style.GREY, lw=1, ls="--")
    panels["information"].set_yscale("log")
    style.legend_below(figure, panels["perplexity"])
    return figure


def matches(tables: Tables) -> Figure:
    """Draw the purity of the least-energy and of the largest-energy unit of each activation."""
    figure, axes = style.subplots(1, 1, 2.5)
    found = tables["responsibilities"].query("temperature == 1 and weight == 1")
    shown = found.query("decay > 0 or activation == 'Mixture'")
    looks = {
        "purity_least": ("least energy", style.BLUE, -0.2),
        "purity_most": ("largest energy", style.ORANGE, 0.2),
    }
    for place, (_, runs) in enumerate(shown.groupby("activation", sort=False)):
        for key, (label, colour, shift) in looks.items():
            label = label if place == 0 else ""
            style.bar(axes, place + shift, 100 * runs[key], 0.36, 0.1, color=colour, label=label)
    names = [ACTIVATIONS[name] for name in shown["activation"].unique()]
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("purity (%)")
    axes.legend()
    return figure


EXPERIMENT = Experiment(
    title="What LSE is",
    sweeps=[
        *("lse_weight", "lse_temperature", "lse_square"),
        *("lse_today", "lse_square_today", "lse_mixture"),
    ],
    protocol="8e00149009591fbf",
    measure=measure,
    shown={"regimes": partial(summary, STANDING), "responsibilities": partial(summary, MEANING)},
    pictures={"where": where, "fits": fits, "temperatures": temperatures, "matches": matches},
)
