"""What is measured of the mixtures of explicit EM and of gradient descent, and kept beside runs."""

from collections.abc import Callable, Sequence
from timeit import timeit
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning.callbacks import Callback
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from threadpoolctl import threadpool_limits

from implicit_em.base.threads import torch_threads
from implicit_em.data import Block, ResidentDataModule
from implicit_em.engine.stack import BareReplica, Stack
from implicit_em.losses import lse
from implicit_em.metrics.probe import linear_probe
from implicit_em.models import Mixture
from implicit_em.training.measurement import energies_of
from implicit_em_studies.shared.measurements import Measurement
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.theory.matching import purity
from implicit_em_studies.theory.mixtures import (
    Fit,
    exact,
    gradient_against_m_step,
    incremental,
    kmeans,
)

BLOCKS = 60
"""Number of blocks of incremental EM: as many as an epoch of the others has batches."""
ROUNDS = 5
"""Number of passes of which the fastest is taken as a method's time."""


class Likelihood(Callback):
    """Logs ``likelihood/lse`` after every epoch: mean LSE of the samples of the curves.

    These are a fixed choice of 10,000 training samples, unless some are held out. For
    ``models.Mixture`` LSE is the negative log-likelihood, up to a constant of the samples. There
    are no seconds beside it: runs that train together share the clock.
    """

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure and log."""
        energies_NK = pl_module(trainer.datamodule.monitored()[0])  # type: ignore[attr-defined]
        pl_module.log("likelihood/lse", lse(energies_NK.double(), reduction="mean"))


def start_of(run: Run, data: ResidentDataModule) -> Fit:
    """Return the mixture that a run started from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.cfg.seed)
        model = run.spec.build_module(data.in_features).model
        model.start(data.starting_samples())
    return Fit.of(model)


def agreement_with_labels(components_N: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Return how well components tell classes.

    ``purity`` is the share of samples in the commonest class of their component. ``nmi`` is the
    mutual information, divided by the mean of the entropies.
    """
    return {
        "purity": purity(contingency_matrix(labels_N, components_N)) / len(labels_N),
        "nmi": float(normalized_mutual_info_score(labels_N, components_N)),
    }


def _likelihood(energies_NK: np.ndarray) -> float:
    return -lse(torch.from_numpy(energies_NK).double(), reduction="mean").item()


def _quality(model: Mixture, data: ResidentDataModule) -> dict[str, float]:
    """Return the likelihoods, and how well the most responsible components tell classes."""
    samples, labels = data.final_samples()
    energies_NK = energies_of(model, samples)
    return {
        "likelihood": _likelihood(energies_of(model, data.monitored()[0])),
        "test_likelihood": _likelihood(energies_NK),
        **agreement_with_labels(energies_NK.argmin(1), labels.numpy()),
    }


def _probed(model: Mixture, data: ResidentDataModule) -> dict[str, float]:
    """Return the quality of a mixture that no run trained, with the probe that a run has."""
    (train, labels), (test, test_labels) = data.split("train"), data.final_samples()
    energies = energies_of(model, train), energies_of(model, test)
    probe = linear_probe(energies[0], labels.numpy(), energies[1], test_labels.numpy(), threads=1)
    return {**_quality(model, data), "probe": probe}


def _quality_of_run(run: Run) -> dict[str, Any]:
    quality = _quality(run.model(), run.spec.build_data())
    return {**quality, "probe": run.metrics()["probe_accuracy"]}


def _steps(run: Run) -> dict[str, Any]:
    """Return how a gradient step and an M-step agree, and what exact EM in float64 gives."""
    data = run.spec.build_data()
    start, end = start_of(run, data), Fit.of(run.model())
    train_ND = data.split("train")[0]
    passes = list(exact(train_ND, start, run.cfg.trainer.max_epochs))
    reference = passes[-1][1]
    return {
        "start": gradient_against_m_step(data.monitored()[0], start),
        "end": gradient_against_m_step(data.monitored()[0], end),
        "reference": [value for value, _ in passes],
        "means_apart": float((end.means_KD - reference.means_KD).abs().max()),
    }


def _incremental(run: Run) -> dict[str, Any]:
    """Return the likelihood after each pass of incremental EM, and the quality at the end."""
    data = run.spec.build_data()
    train_ND, passes = data.split("train")[0], run.cfg.trainer.max_epochs
    fits = incremental(train_ND, start_of(run, data), BLOCKS, passes)
    models = [fit.model() for fit, _ in fits]
    curve = [_likelihood(energies_of(model, data.monitored()[0])) for model in models]
    return {"curve": curve, **_probed(models[-1], data)}


def _kmeans(run: Run) -> dict[str, Any]:
    """Return the quality of k-means from the same start, read as a mixture."""
    data = run.spec.build_data()
    with threadpool_limits(limits=1):
        fit = kmeans(data.split("train")[0], start_of(run, data), run.cfg.trainer.max_epochs)
    return _probed(fit.model(), data)


QUALITY = Measurement("explicit_em_quality", 1, _quality_of_run)
STEPS = Measurement("explicit_em_steps", 1, _steps)
INCREMENTAL = Measurement("explicit_em_incremental", 1, _incremental)
OF_STARTS = {
    "incremental": INCREMENTAL,
    "kmeans": Measurement("explicit_em_kmeans", 1, _kmeans),
}
"""Methods that train no run, from the starts of the runs of exact EM."""
PACE = Measurement("explicit_em_pace", 1, None)


def _pass_of(run: Run) -> Callable[[], Any]:
    """Return a function that trains a copy of a run's model for one pass, alone."""
    data = run.spec.build_data()
    module = run.spec.build_module(data.in_features)
    module.model.load_state_dict(run.model().state_dict())
    optimizer = instantiate(module.hparams["optimizer"], _partial_=True)(module.model.parameters())
    stack = Stack([BareReplica(module.model, module.objective, optimizer)])
    loader: Any = data.train_dataloader()
    block = Block(loader.inputs, list(loader.index_batches()))
    return lambda: stack.train([block])


def keep_paces(runs: Sequence[Run]) -> None:
    """Time a pass of each run, and of incremental EM, and keep the seconds beside the runs.

    The methods take turns: what else the machine does slows all alike.
    """
    if not PACE.left(runs):
        return
    passes = {run.label: _pass_of(run) for run in runs}
    (first,) = (run for run in runs if method_of(run) == "exact")
    train_ND = first.spec.build_data().split("train")[0]
    going = incremental(train_ND, Fit.of(first.model()), BLOCKS, ROUNDS + 1)
    next(going)  # another E-step for all blocks at once
    passes["incremental"] = lambda: next(going)
    with torch_threads(1), threadpool_limits(limits=1):
        rounds = [{name: timeit(passes[name], number=1) for name in passes} for _ in range(ROUNDS)]
    fastest = {name: min(seconds[name] for seconds in rounds) for name in passes}
    for run in runs:
        own = {"pass_seconds": fastest[run.label]}
        if run is first:
            own["incremental"] = fastest["incremental"]
        PACE.keep(run, own)


def method_of(run: Run) -> str:
    """Return the method of a run: the last word of its sweep."""
    return run.sweep.rpartition("_")[2]
