"""The metrics of a trained module, and how often they are measured during training."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from implicit_em.base.progress import working
from implicit_em.data import ResidentDataModule
from implicit_em.engine.modules import EnergyModule, SparseAutoencoderModule, build_objective
from implicit_em.losses import lse
from implicit_em.metrics import final_metrics
from implicit_em.metrics.energies import RECONSTRUCTION
from implicit_em.metrics.probe import linear_probe
from implicit_em.models import Encoder
from implicit_em.training.decoding import at_sites, encoded, features_found, ridge_fvu

log = logging.getLogger(__name__)

MAY_NOT_APPLY = (*RECONSTRUCTION, "fvu", "redundancy")
"""Metrics that are undefined for some models whose energies are finite."""
DISTORTING = ("standard", "zca")
"""Normalisations that change the fraction of variance unexplained."""
L0_TOLERANCE = 0.05
"""Largest relative distance of L0 from its target at which the target counts as reached."""
MONITORING_SHARE = 0.05
"""Largest share of the training time that measuring the curves may take by default."""
MONITORING_COST = 0.4
"""Time to measure an image, without its redundancy, divided by the time to train on it."""


class Measured(SparseAutoencoderModule):
    """An autoencoder that is measured, and not trained.

    Args:
        model: the autoencoder.
    """

    def __init__(self, model: nn.Module) -> None:
        pl.LightningModule.__init__(self)  # without what belongs to a training
        self.model, self.objective = model, build_objective(self.default_loss)
        self.finals = final_metrics(len(self.model.weight), self.reconstruction_metric)


def evaluate_module(
    module: EnergyModule, data: ResidentDataModule, trainer: pl.Trainer
) -> dict[str, Any]:
    """Return the metrics of the final samples.

    ``None`` stands for a reconstruction that does not apply, and for the redundancy of a layer in
    which fewer than two units vary. Metrics are not finite if energies overflow. The FVU is of
    samples before normalisation.
    """
    normalizer = data.normalizer
    several = len(data.parts) > 1
    distorts = normalizer is not None and (normalizer.option in DISTORTING or several)
    if normalizer is not None and "fvu" in module.finals and distorts:
        of_target = deepcopy(normalizer.sides(module.model.out_features)[1])
        module.finals["fvu"].raw = of_target.to(trainer.strategy.root_device).inverse
    with working("measuring the model", say=None):
        trainer.test(module, datamodule=data, verbose=False)
    results: dict[str, Any] = {}
    for key in map(str, module.finals):
        value = trainer.callback_metrics[key].item()
        if key.endswith("_units"):
            value = int(value)
        results[key] = None if key in MAY_NOT_APPLY and np.isnan(value) else value
    if trainer.is_global_zero:
        with working("fitting a ridge decoder", say=None):
            results["ridge_fvu"] = ridge_fvu(module.model, data)
            results |= at_sites(module.model, data) if several else {}
        results["features_found"] = features_found(module.model, data)
    return results | _described(module, data)


def _described(module: EnergyModule, data: ResidentDataModule) -> dict[str, Any]:
    """Return what tables have to know of a model and its data: ``results.DESCRIBED``."""
    by_em = any(term.function is lse for term in module.objective.terms.values())
    return {
        "units": module.model.weight.shape[-2],
        "inputs": data.in_features,
        "responsibilities": by_em or isinstance(module.model, Encoder),
        **data.origin(),
    }


def l0_reached(target: float, l0: float, settings: Mapping[str, float]) -> bool:
    """Return whether L0 is near its target; if not, a warning says what it is.

    Args:
        target: L0 that the training should lead to.
        l0: mean number of active units in a final sample.
        settings: means over the last epoch of the settings that a control changed; empty without
            a control.
    """
    reached = abs(l0 / target - 1) <= L0_TOLERANCE
    if not reached:
        listed = ", ".join(f"{key}={value:.3g}" for key, value in settings.items())
        said_of_them = f"; means over the last epoch: {listed}" if listed else ""
        log.warning("model.l0=%g: not reached: L0 is %.3g%s", target, l0, said_of_them)
    return reached


def energies_of(model: Any, samples: Tensor) -> np.ndarray:
    """Return a model's energies, or an autoencoder's hidden activations.

    Args:
        model: model whose ``encode`` gives them.
        samples: shape ``(N, D)``; uint8, which is scaled to [0, 1], or floating point.

    Returns:
        Shape ``(N, K)``; float32 or float64.
    """
    batches = (energies.cpu() for energies, _ in encoded(model, samples, 2_000))
    return torch.cat(list(batches)).numpy()


def probe_module(
    module: EnergyModule, data: ResidentDataModule, threads: int | None
) -> float | None:
    """Return the linear probe's accuracy on the energies of the data's final samples.

    It is ``None`` if all training labels are equal, for example because there are none, and NaN if
    the energies are not finite.
    """
    train_samples, train_labels = data.split("train")
    test_samples, test_labels = data.final_samples()
    indices = data.train_indices()
    indices = indices[data.probed(train_labels[indices])]
    if len(train_labels[indices].unique()) < 2:
        log.info("no linear probe: no labels, or all of a single class")
        return None
    tested = data.probed(test_labels)
    test_labels = test_labels[tested]
    train = energies_of(module.model, train_samples[indices])
    test = energies_of(module.model, test_samples[tested])
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        return float("nan")
    with working("linear probe on the training features"):
        accuracy = linear_probe(
            train, train_labels[indices].cpu().numpy(), test, test_labels.cpu().numpy(), threads
        )
    log.info("linear probe: %.2f %% of the %s samples", 100 * accuracy, data.final)
    return accuracy


def monitoring_cost(samples: int, components: int, in_features: int) -> float:
    """Return the time to measure one of N samples divided by the time to train on it.

    Training takes 4 to 6 D K operations. The redundancy takes at most 2 min(N, K) K operations in
    float64, which count twice, so its share is about min(N, K) / D. ``make bench`` measures the
    ratio: for MNIST on one thread 0.36 at K = 64, 0.67 at 256, 1.6 at 1,024 and 5.0 at 4,096.
    """
    return MONITORING_COST + min(samples, components) / in_features


def monitored_samples(data: ResidentDataModule, most: int) -> Tensor:
    """Return a fixed choice of held-out samples or, without any, of training samples ``(N, D)``."""
    samples, rows = data.split("train")[0], data.monitored_indices()
    some = rows[:: -(-len(rows) // most)].to(samples.device)
    return samples.index_select(0, some)


def monitoring_interval(data: ResidentDataModule, components: int) -> int:
    """Return the epochs between two measurements; timing them would make equal runs differ."""
    samples = len(data.monitored_indices())
    cost = monitoring_cost(samples, components, data.in_features)
    return max(1, int(np.ceil(cost * samples / data.epoch_size / MONITORING_SHARE)))
