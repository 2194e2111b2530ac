"""A run's metrics, its data, and its trained model."""

from typing import Any

import numpy as np
from hydra.utils import get_class

from implicit_em.data import ResidentDataModule
from implicit_em.models import SparseAutoencoder
from implicit_em.studies.runs import Run
from implicit_em.training.directory import RunDirectory
from implicit_em.training.loading import load


def metrics_of(run: Run) -> dict[str, Any]:
    """Return the content of a run's ``metrics.json``; empty if there is none yet."""
    return RunDirectory(run.directory).read_metrics() or {}


def data_of(run: Run) -> ResidentDataModule:
    """Read the data that a run's configuration names."""
    return run.spec.build_data()


def model_of(run: Run) -> Any:
    """Return the trained model of a complete run, on the CPU; its class may be a user's own."""
    return load(run.directory, classes=[get_class(run.cfg.model._target_)])


def matrices_of(model: Any) -> dict[str, np.ndarray]:
    """Return the rows of the ``encoder`` and the columns of a ``decoder``, each ``(K, D)``."""
    matrices = {"encoder": model.weight}
    if isinstance(model, SparseAutoencoder):
        matrices["decoder"] = model.decoder.weight.mT
    return {name: weight.detach().numpy() for name, weight in matrices.items()}
