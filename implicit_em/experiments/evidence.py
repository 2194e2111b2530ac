"""What the study measured: its runs as tables, and what is computed from the trained models."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

import implicit_em
from implicit_em.data import as_unit_float
from implicit_em.experiments import dynamics, prototypes, theorem
from implicit_em.metrics import SILENT_SHARE, Redundancy
from implicit_em.studies.runs import Run
from implicit_em.studies.trained import data_of, matrices_of, metrics_of
from implicit_em.training.measurement import energies_of

IDENTITY_IMAGES = 128


@dataclass(frozen=True)
class Evidence:
    """Everything that criteria, tables and figures look at; what was not run is empty.

    Args:
        draws: one row per draw of energies, from ``theorem.draws``.
        encoder: the theorem at a trained encoder's energies and weights, from
            ``theorem.through_encoder``.
        training: history of the theorem's run, with ``trajectory/identity_error``.
        ablation: one row per run: ``loss``, ``seed``, and the keys of ``metrics.json``.
        benchmark: ``model`` (encoder, sae), ``seed``, those keys, ``reconstruction``, the mean
            squared error by the decoder or the transposed encoder, and ``unexplained``, the same
            over the data's variance.
        dynamics: ``optimizer`` (sgd, adam), ``lr``, ``seed``, those keys, and ``history``.
        widths: ``optimizer``, ``hidden``, those keys, and ``history``.
        crossings: table from ``dynamics.crossings``.
        trends: table from ``dynamics.trends``.
        settling: table from ``dynamics.settling``.
        features: a row for each ``model``, ``matrix`` (encoder, decoder), ``seed`` and kind of
            ``units`` (all, live, silent), from ``prototypes.describe``; for all rows of an encoder
            also from ``prototypes.purities``.
        correlations: for each loss of the ablation the correlations of its components over the test
            images, shape ``(K, K)``, first seed.
        weights: the rows of ``encoder``, ``sae encoder`` and ``sae decoder``, each of shape
            ``(K, D)``, first seed.
        sample_shape: shape of an image.

    """

    draws: pd.DataFrame = field(default_factory=pd.DataFrame)
    encoder: pd.DataFrame = field(default_factory=pd.DataFrame)
    training: pd.DataFrame = field(default_factory=pd.DataFrame)
    ablation: pd.DataFrame = field(default_factory=pd.DataFrame)
    benchmark: pd.DataFrame = field(default_factory=pd.DataFrame)
    dynamics: pd.DataFrame = field(default_factory=pd.DataFrame)
    widths: pd.DataFrame = field(default_factory=pd.DataFrame)
    crossings: pd.DataFrame = field(default_factory=pd.DataFrame)
    trends: pd.DataFrame = field(default_factory=pd.DataFrame)
    settling: pd.DataFrame = field(default_factory=pd.DataFrame)
    features: pd.DataFrame = field(default_factory=pd.DataFrame)
    correlations: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    sample_shape: tuple[int, ...] = ()


def gather(runs: Sequence[Run], experiments: Sequence[str]) -> Evidence:
    """Measure what the experiments ask for, from complete runs."""
    images = _Images(runs[0])
    parts: dict[str, Any] = {"sample_shape": images.shape}
    if "theorem" in experiments:
        run: Any = table(runs, ["theorem"]).iloc[0]
        parts["draws"] = theorem.draws()
        encoder: Any = implicit_em.load(run["directory"])
        parts["encoder"] = theorem.through_encoder(encoder, images.test[:IDENTITY_IMAGES])
        parts["training"] = _history(run["directory"])
    if "ablation" in experiments:
        parts["ablation"] = table(runs, ["ablation"])
        parts["correlations"] = _correlations(parts["ablation"], images)
    if "benchmark" in experiments:
        parts["benchmark"] = table(runs, ["benchmark"])
        error = parts["benchmark"][["reconstruction_mse", "transpose_reconstruction_mse"]]
        parts["benchmark"]["reconstruction"] = error.bfill(axis=1).iloc[:, 0]
        parts["benchmark"]["unexplained"] = parts["benchmark"]["reconstruction"] / images.variance
    if "dynamics" in experiments:
        parts["dynamics"] = _with_histories(table(runs, ["dynamics"]))
        parts["widths"] = _with_histories(table(runs, ["width_sgd", "width_adam"]))
        for name in ("crossings", "trends", "settling"):
            parts[name] = getattr(dynamics, name)(parts["widths"])
    if "features" in experiments:
        shown = table(runs, ["features"])
        parts["features"] = _features(shown, images)
        parts["weights"] = _weights(shown)
    return Evidence(**parts)


class _Images:
    """The images of a run's data, in [0, 1]."""

    def __init__(self, run: Run) -> None:
        data = data_of(run)
        self.shape = data.sample_shape
        train, train_labels = data.split("train")
        test, test_labels = data.split("test")
        self.train, self.train_labels = as_unit_float(train), train_labels.numpy()
        self.test, self.test_labels = as_unit_float(test), test_labels.numpy()

    @property
    def variance(self) -> float:
        """Mean over the pixels of their variance over the test images."""
        return float(self.test.double().var(0, unbiased=False).mean())


def table(runs: Sequence[Run], sweeps: Sequence[str]) -> pd.DataFrame:
    """Return one row per run of the sweeps: its metrics, its values of the axes, and ``directory``.

    An axis is called by the last part of its key: ``lr`` for ``lr.value``.
    """
    rows = []
    for run in runs:
        for place in run.places:
            if place.sweep in sweeps:
                axes = _axis_values(place.axes)
                rows.append({**metrics_of(run), **axes, "directory": run.directory})
    frame = pd.DataFrame(rows)
    nothing = frame.columns[frame.isna().all()]
    return frame.astype(dict.fromkeys(nothing, float))


def _axis_values(axes: Mapping[str, str]) -> dict[str, Any]:
    return {
        key.removesuffix(".value").rpartition(".")[2]: _number(value) for key, value in axes.items()
    }


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _history(directory: object) -> pd.DataFrame:
    return pd.read_csv(f"{directory}/history.csv")


def _with_histories(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.assign(history=runs["directory"].map(_history))


@torch.no_grad()
def _correlations(runs: pd.DataFrame, images: _Images) -> dict[str, np.ndarray]:
    matrices = {}
    run: Any
    for run in runs[runs["seed"] == runs["seed"].min()].itertuples():
        energies_NK = torch.from_numpy(energies_of(implicit_em.load(run.directory), images.test))
        moments = Redundancy(energies_NK.shape[1])
        moments.update(energies_NK)
        matrices[run.loss] = moments.correlation_KK.numpy()
    return matrices


@torch.no_grad()
def _features(runs: pd.DataFrame, images: _Images) -> pd.DataFrame:
    targets = prototypes.find_prototypes(images.train.numpy(), images.train_labels, images.shape)
    rows = []
    run: Any
    for run in runs.itertuples():
        model = implicit_em.load(run.directory)
        energies_NK = energies_of(model, images.test).astype(np.float64)
        purities = prototypes.purities(energies_NK, images.test_labels)
        peaks_K = np.abs(energies_NK).max(0)
        silent_K = peaks_K <= SILENT_SHARE * np.abs(energies_NK).mean()
        kinds = {"all": np.full_like(silent_K, True), "live": ~silent_K, "silent": silent_K}
        for matrix, rows_KD in matrices_of(model).items():
            for units, chosen_K in kinds.items():
                if not chosen_K.any():
                    continue
                case = {"model": run.model, "matrix": matrix, "units": units, "seed": run.seed}
                numbers = prototypes.describe(rows_KD[chosen_K].astype(np.float64), targets)
                extra = purities if (matrix, units) == ("encoder", "all") else {}
                rows.append(case | {"rows": int(chosen_K.sum())} | numbers | extra)
    return pd.DataFrame(rows)


def _weights(runs: pd.DataFrame) -> dict[str, np.ndarray]:
    shown = runs[runs["seed"] == runs["seed"].min()].set_index("model")["directory"]
    sae = matrices_of(implicit_em.load(shown["sae"]))
    return {
        **matrices_of(implicit_em.load(shown["encoder"])),
        "sae encoder": sae["encoder"],
        "sae decoder": sae["decoder"],
    }
