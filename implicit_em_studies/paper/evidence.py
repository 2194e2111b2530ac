"""The study's evidence: its runs as tables, and measurements of the trained models."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

import implicit_em
from implicit_em.data import as_unit_float
from implicit_em.metrics import SILENT_SHARE, Redundancy
from implicit_em.training.measurement import energies_of
from implicit_em_studies.paper import convergence, identity, prototypes
from implicit_em_studies.shared.runs import Run, matrices_of, table

IDENTITY_IMAGES = 128


@dataclass(frozen=True)
class Evidence:
    """The evidence for criteria, tables and figures; an experiment that was not run is empty.

    A table of runs has the keys of ``metrics.json`` and the axes of the sweep. The benchmark's runs
    also have ``reconstruction``, the mean squared error by the decoder or the transposed encoder,
    and ``unexplained``, the same over the data's variance.
    """

    draws: pd.DataFrame = field(default_factory=pd.DataFrame)  # identity.draws
    encoder: pd.DataFrame = field(default_factory=pd.DataFrame)  # identity.through_encoder
    training: pd.DataFrame = field(default_factory=pd.DataFrame)  # history of the theorem's run
    ablation: pd.DataFrame = field(default_factory=pd.DataFrame)  # runs
    benchmark: pd.DataFrame = field(default_factory=pd.DataFrame)  # runs
    dynamics: pd.DataFrame = field(default_factory=pd.DataFrame)  # runs with their ``history``
    widths: pd.DataFrame = field(default_factory=pd.DataFrame)  # runs with their ``history``
    crossings: pd.DataFrame = field(default_factory=pd.DataFrame)  # convergence.crossings
    trends: pd.DataFrame = field(default_factory=pd.DataFrame)  # convergence.trends
    settling: pd.DataFrame = field(default_factory=pd.DataFrame)  # convergence.settling
    features: pd.DataFrame = field(default_factory=pd.DataFrame)  # prototypes.describe, purities
    correlations: dict[str, np.ndarray] = field(default_factory=dict)  # (K, K) of each loss
    weights: dict[str, np.ndarray] = field(default_factory=dict)  # (K, D) of each matrix
    sample_shape: tuple[int, ...] = ()


def gather(runs: Sequence[Run], experiments: Sequence[str]) -> Evidence:
    """Measure complete runs for the experiments."""
    images = _Images(runs[0])
    parts: dict[str, Any] = {"sample_shape": images.shape}
    if "theorem" in experiments:
        run: Any = table(runs, ["theorem"]).iloc[0]
        parts["draws"] = identity.draws()
        encoder: Any = implicit_em.load(run["directory"])
        parts["encoder"] = identity.through_encoder(encoder, images.test[:IDENTITY_IMAGES])
        parts["training"] = _history(run["directory"])
    if "ablation" in experiments:
        parts["ablation"] = table(runs, ["ablation"])
        parts["correlations"] = _correlations(parts["ablation"], images)
    if "benchmark" in experiments:
        parts["benchmark"] = table(runs, ["benchmark"])
        error = parts["benchmark"][["reconstruction_mse", "transpose_reconstruction_mse"]]
        parts["benchmark"]["reconstruction"] = error.bfill(axis=1).iloc[:, 0]
        variance = float(images.test.double().var(0, unbiased=False).mean())  # over the images
        parts["benchmark"]["unexplained"] = parts["benchmark"]["reconstruction"] / variance
    if "dynamics" in experiments:
        for name, sweeps in (("dynamics", ["dynamics"]), ("widths", ["width_sgd", "width_adam"])):
            parts[name] = table(runs, sweeps)
            parts[name]["history"] = parts[name]["directory"].map(_history)
        for measure in (convergence.crossings, convergence.trends, convergence.settling):
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


def _history(directory: object) -> pd.DataFrame:
    return pd.read_csv(f"{directory}/history.csv")


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
