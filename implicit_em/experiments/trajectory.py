"""The Lightning callback that follows what a layer does, epoch by epoch, on scales of its own."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from implicit_em.data import ResidentDataModule
from implicit_em.engine.modules import EnergyModule
from implicit_em.experiments.theorem import agreement
from implicit_em.metrics import Redundancy
from implicit_em.training.measurement import probe_module

IDENTITY_SAMPLES = 128


class Trajectory(Callback):
    """Logs ``trajectory/*`` after every epoch.

    On the images that the curves are measured on:

    - ``row_angle``: mean angle, in degrees, that the weight rows turned since the epoch before;
    - ``correlation_change``: root mean square change of the correlations between components;
    - ``log_variance``: median over the components of ``log Var(E_j)``;
    - ``identity_correlation``, ``identity_error``: gradient against responsibilities, as
      ``theorem.agreement`` gives them, on the first 128 images;
    - ``probe_accuracy``: of the linear probe, after epochs 1, 2, 3, 4, 6, 8, 12, ... and the last.

    The first two are free of scale: multiplying all energies by a constant leaves them as they are.
    """

    def __init__(self) -> None:
        self._before: tuple[Tensor, Tensor] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where the layer starts."""
        self._before = self._state(trainer, pl_module)[:2]

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure and log."""
        assert isinstance(pl_module, EnergyModule)
        assert self._before is not None
        rows_KD, correlation_KK, variance_K, energies_BK = self._state(trainer, pl_module)
        identity = agreement(energies_BK[:IDENTITY_SAMPLES])
        values: dict[str, Tensor | float] = {
            "row_angle": row_angle(self._before[0], rows_KD),
            "correlation_change": _rms_off_diagonal(correlation_KK - self._before[1]),
            "log_variance": variance_K.log().median(),
            "identity_correlation": identity["correlation"],
            "identity_error": identity["max_error"],
        }
        epoch = trainer.current_epoch + 1
        if epoch in probe_epochs(epoch) or epoch == trainer.max_epochs:
            accuracy = probe_module(pl_module, _data(trainer), torch.get_num_threads())
            if accuracy is not None:
                values["probe_accuracy"] = accuracy
        self._before = rows_KD, correlation_KK
        _log(pl_module, values)

    @staticmethod
    @torch.no_grad()
    def _state(trainer: pl.Trainer, module: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        data = _data(trainer)
        images, _ = data.split("train")
        energies_BK = module(images[data.monitored_indices().to(images.device)])
        moments = Redundancy(energies_BK.shape[-1]).to(energies_BK.device)
        moments.update(energies_BK)
        variance_K = moments.covariance_KK.diagonal()
        return module.model.weight.clone(), moments.correlation_KK, variance_K, energies_BK


def row_angle(before_KD: Tensor, after_KD: Tensor) -> Tensor:
    """Return the mean angle, in degrees, between rows before and after; shape ``()``, float64."""
    first, second = (
        torch.nn.functional.normalize(w.double(), dim=-1) for w in (before_KD, after_KD)
    )
    # Half-angle form: arccos of a cosine near 1 would lose all small angles to rounding.
    return (2 * (0.5 * (first - second).norm(dim=-1)).clamp(max=1).asin()).rad2deg().mean()


def probe_epochs(last: int) -> list[int]:
    """Return the epochs up to ``last`` that are probed: powers of the square root of two."""
    powers = np.ceil(2 ** (np.arange(64) / 2) - 1e-9)
    return sorted({int(epoch) for epoch in powers if epoch <= last})


def _rms_off_diagonal(matrix_KK: Tensor) -> Tensor:
    components = len(matrix_KK)
    total = matrix_KK.square().sum() - matrix_KK.diagonal().square().sum()
    return (total / max(1, components * (components - 1))).sqrt()


def _log(module: pl.LightningModule, values: Mapping[str, Tensor | float]) -> None:
    module.log_dict({f"trajectory/{k}": torch.as_tensor(v).double() for k, v in values.items()})


def _data(trainer: pl.Trainer) -> ResidentDataModule:
    return trainer.datamodule  # type: ignore[attr-defined]
