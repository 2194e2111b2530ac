"""What is measured of the finals and controls, each once: it lies beside its run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from hydra.utils import get_class
from torch import Tensor

import implicit_em
from implicit_em.base.errors import DamagedError
from implicit_em.base.files import read_json, write_json
from implicit_em.compare.stages import describe, settings_of
from implicit_em.config.spec import RunSpec
from implicit_em.data import as_unit_float
from implicit_em.metrics.densities import density
from implicit_em.metrics.dictionaries import stability, varying
from implicit_em.metrics.quality import Encoded, quality
from implicit_em.models import SparseAutoencoder
from implicit_em.studies.matrices import matrices_of
from implicit_em.studies.runs import Run
from implicit_em.training.directory import RunDirectory
from implicit_em.training.measurement import energies_of

FILE = "quality.json"
SCHEMA = 1
"""Version of what is measured, and how."""
OF_THE_RUN = ("parameters", "epochs", "train_seconds", "redundancy", "responsibility_entropy")
BATCH = 2_000


def tuning_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row a run of the grids: its settings and what it measured on held-out samples.

    ``density`` counts what is not exactly zero, as that of the finals does; the run's own counts by
    a threshold.

    Args:
        runs: of one data set, that are complete or have diverged.

    """
    held_out = _samples(runs[0])[2]
    rows = []
    for run in runs:
        metrics = RunDirectory(run.directory).read_metrics() or {}
        keys = ("probe_accuracy", "silent_units", "final_loss", "error")
        measured = {key: metrics.get(key) for key in keys} | {"density": None}
        if metrics.get("status") == "completed":
            measured["density"] = density(energies_of(trained(run), held_out))
        for family, axes in run.places:
            row = {"family": family, "settings": describe(run.cfg, axes), "run": run.fingerprint}
            rows.append(row | {"seed": run.cfg.seed} | measured)
    numbers = ["density", "probe_accuracy", "silent_units", "final_loss"]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))


def measure_all(runs: Sequence[Run], workers: int) -> pd.DataFrame:
    """Return a row a run: family, settings, seed, and all that ``quality`` measures of it.

    Also what the run itself knows, ``units``, the number K, and ``active_units``, the L0.

    Args:
        runs: that are complete.
        workers: processes that measure what was not measured before.

    """
    left = [run for run in runs if _known(run) is None]
    if workers > 1 and len(left) > 1:
        joblib.Parallel(n_jobs=workers)(joblib.delayed(_measure)(run) for run in left)
    else:
        for run in left:
            _measure(run)
    return pd.DataFrame([_row(run) for run in runs])


def stabilities(runs: Sequence[Run]) -> pd.DataFrame:
    """Return how alike the weight rows of each setting's seeds are.

    Args:
        runs: that are complete, of one data set.

    Returns:
        A row a setting: ``family``, ``settings``, and ``encoder_stability`` and
        ``decoder_stability``, null where there is a single seed, or no such matrix.

    """
    by_setting: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    varies_D = varying(_samples(runs[0])[0].numpy())
    for run in runs:
        found = matrices_of(trained(run))
        found["encoder"] = found["encoder"][:, varies_D]
        by_setting.setdefault((run.places[0][0], settings_of(run)), []).append(found)
    return pd.DataFrame(
        [
            {"family": family, "settings": settings}
            | {
                f"{name}_stability": stability([seed[name] for seed in seeds if name in seed])
                for name in ("encoder", "decoder")
            }
            for (family, settings), seeds in by_setting.items()
        ]
    )


def trained(run: Run) -> Any:
    """Return the trained model of a run, whose class is the configuration's."""
    return implicit_em.load(run.directory, classes=[get_class(run.cfg.model._target_)])


def _row(run: Run) -> dict[str, Any]:
    metrics = RunDirectory(run.directory).read_metrics() or {}
    row = {
        "family": run.places[0][0],
        "settings": settings_of(run),
        "seed": run.cfg.seed,
        "run": run.fingerprint,
    }
    measured = {key: np.nan if v is None else v for key, v in (_known(run) or {}).items()}
    active = {"active_units": measured["exact_density"] * measured["units"]}
    return row | {key: metrics.get(key) for key in OF_THE_RUN} | measured | active


def _known(run: Run) -> dict[str, Any] | None:
    """Return what was measured of this run before; ``None`` where that is not there, or damaged."""
    try:
        content = read_json(run.directory / FILE)
    except (OSError, DamagedError):
        return None
    is_its = isinstance(content, dict) and (content.get("schema"), content.get("run")) == (
        SCHEMA,
        run.fingerprint,
    )
    return content["quality"] if is_its and isinstance(content.get("quality"), dict) else None


def _measure(run: Run) -> None:
    threads = run.cfg.trainer.threads
    if threads:
        torch.set_num_threads(threads)
    model = trained(run)
    train_x, train_labels, test_x, test_labels = _samples(run)
    train, test = (
        Encoded(x.numpy(), labels.numpy(), energies_of(model, x))
        for x, labels in ((train_x, train_labels), (test_x, test_labels))
    )
    units = train.activations_NK.shape[1]
    matrices = matrices_of(model)
    reconstruction = None
    if isinstance(model, SparseAutoencoder):
        reconstruction = _decoded(model, torch.from_numpy(test.activations_NK))
    measured = quality(
        train, test, matrices["encoder"], matrices.get("decoder"), reconstruction, threads
    )
    write_json(
        Path(run.directory) / FILE,
        {"schema": SCHEMA, "run": run.fingerprint, "quality": {"units": units, **measured}},
    )


def _samples(run: Run) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the samples that a run is trained on, and those that it is measured on."""
    data = RunSpec.of(run.cfg).build_data()
    samples, labels = data.split("train")
    indices = data.train_indices()
    final, final_labels = data.final_samples()
    return _floats(samples[indices]), labels[indices], _floats(final), final_labels


def _floats(samples: Tensor) -> Tensor:
    """Return samples in a precision that numpy has, too."""
    x = as_unit_float(samples)
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def _decoded(model: SparseAutoencoder, activations_NK: Tensor) -> np.ndarray:
    return torch.cat([model.decode(part) for part in activations_NK.split(BATCH)]).numpy()
