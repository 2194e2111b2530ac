"""The study's evidence: its runs as tables, and measurements of the trained models."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

import implicit_em
from implicit_em.data import as_unit_float
from implicit_em.experiments import dynamics, prototypes, theorem
from implicit_em.metrics import SILENT_SHARE, Redundancy
from implicit_em.studies.runs import Run, matrices_of
from implicit_em.training.measurement import energies_of

IDENTITY_IMAGES = 128


@dataclass(frozen=True)
class Evidence:
    """The evidence for criteria, tables and figures; an experiment that was not run is empty.

    ``ablation``, ``benchmark``, ``dynamics`` and ``widths`` have a row for each run, with the keys
    of ``metrics.json`` and the axes of the sweep.

    Args:
        draws: table from ``theorem.draws``.
        encoder: table from ``theorem.through_encoder``.
        training: history of the theorem's run.
        benchmark: the runs also have ``reconstruction``, the mean squared error by the decoder or
            the transposed encoder, and ``unexplained``, the same over the data's variance.
        dynamics: the runs also have their ``history``, as those of ``widths`` do.
        crossings: table from the function of that name in ``dynamics``, as the next two.
        features: numbers from ``prototypes.describe`` for each ``model``, ``matrix`` (encoder,
            decoder), ``seed`` and kind of ``units`` (all, live, silent); with
            ``prototypes.purities`` for all rows of an encoder.
        correlations: correlations ``(K, K)`` of the components over the test images for each loss
            of the ablation, first seed.
        weights: rows ``(K, D)`` of ``encoder``, ``sae encoder`` and ``sae decoder``, first seed.

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
    """Measure complete runs for the experiments."""
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
        variance = float(images.test.double().var(0, unbiased=False).mean())  # mean of the pixels'
        parts["benchmark"]["unexplained"] = parts["benchmark"]["reconstruction"] / variance
    if "dynamics" in experiments:
        parts["dynamics"] = _with_histories(table(runs, ["dynamics"]))
        parts["widths"] = _with_histories(table(runs, ["width_sgd", "width_adam"]))
        for measure in (dynamics.crossings, dynamics.trends, dynamics.settling):
            parts[measure.__name__] = measure(parts["widths"])
    if "features" in experiments:
        shown = table(runs, ["features"])
        parts["features"] = _features(shown, images)
        parts["weights"] = _weights(shown)
    return Evidence(**parts)


class _Images:
    """The images of a run's data, in [0, 1]."""

    def __init__(self, run: Run) -> None:
        data = run.spec.build_data()
        self.shape = data.sample_shape
        train, train_labels = data.split("train")
        test, test_labels = data.split("test")
        self.train, self.train_labels = as_unit_float(train), train_labels.numpy()
        self.test, self.test_labels = as_unit_float(test), test_labels.numpy()


def table(runs: Sequence[Run], sweeps: Sequence[str]) -> pd.DataFrame:
    """Return one row per run of the sweeps: its metrics, its values of the axes, and ``directory``.

    An axis is called by the last part of its key: ``lr`` for ``lr.value``.
    """
    rows = []
    for run in runs:
        for place in run.places:
            if place.sweep in sweeps:
                row = {**run.metrics(), "directory": run.directory}
                for key, value in place.axes.items():
                    row[key.removesuffix(".value").rpartition(".")[2]] = _number(value)
                rows.append(row)
    frame = pd.DataFrame(rows)
    nothing = frame.columns[frame.isna().all()]
    return frame.astype(dict.fromkeys(nothing, float))


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
