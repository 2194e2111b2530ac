"""The Lightning callback that follows a layer through its training."""

from collections import deque
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn.functional import normalize

from implicit_em.data import ResidentDataModule
from implicit_em.engine.modules import EnergyModule
from implicit_em.metrics import Redundancy
from implicit_em.training.measurement import probe_module
from implicit_em_studies.paper.identity import agreement

IDENTITY_SAMPLES = 128
LAG = 10
"""Epochs over which slow changes are told from fluctuations."""


class Trajectory(Callback):
    """Logs ``trajectory/*`` after every epoch, measured on the same images as the curves.

    - ``row_angle``: mean angle that the weight rows turned in this epoch, in degrees
    - ``correlation_change``: root mean square change of the correlations between components
    - ``row_angle_ten``, ``correlation_change_ten``: the same over the last ten epochs
    - ``log_variance``: median over the components of ``log Var(E_j)``
    - ``identity_correlation``, ``identity_error``: ``identity.agreement`` on the first 128 images
    - ``probe_accuracy``: accuracy of the linear probe, after ``probe_epochs`` and the last epoch

    The first four do not depend on the scale of the energies.

    Args:
        probes: whether to measure the probe.
    """

    def __init__(self, probes: bool = True) -> None:
        self._probes = probes
        self._before: deque[tuple[Tensor, Tensor]] = deque(maxlen=LAG)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the initial weights and correlations."""
        self._before.append(self._state(trainer, pl_module)[:2])

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure and log."""
        assert isinstance(pl_module, EnergyModule)
        rows_KD, correlation_KK, variance_K, energies_BK = self._state(trainer, pl_module)
        identity = agreement(energies_BK[:IDENTITY_SAMPLES])
        values: dict[str, Tensor | float] = {
            "row_angle": row_angle(self._before[-1][0], rows_KD),
            "correlation_change": _rms_off_diagonal(correlation_KK - self._before[-1][1]),
            "log_variance": variance_K.log().median(),
            "identity_correlation": identity["correlation"],
            "identity_error": identity["max_error"],
        }
        if len(self._before) == LAG:
            rows, correlations = self._before[0]
            values["row_angle_ten"] = row_angle(rows, rows_KD)
            values["correlation_change_ten"] = _rms_off_diagonal(correlation_KK - correlations)
        epoch = trainer.current_epoch + 1
        if self._probes and (epoch in probe_epochs(epoch) or epoch == trainer.max_epochs):
            accuracy = probe_module(pl_module, _data(trainer), torch.get_num_threads())
            if accuracy is not None:
                values["probe_accuracy"] = accuracy
        self._before.append((rows_KD, correlation_KK))
        pl_module.log_dict(
            {f"trajectory/{key}": torch.as_tensor(v).double() for key, v in values.items()}
        )

    @staticmethod
    @torch.no_grad()
    def _state(trainer: pl.Trainer, module: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        data = _data(trainer)
        energies_BK = module(data.monitored()[0])
        moments = Redundancy(energies_BK.shape[-1]).to(energies_BK.device)
        moments.update(energies_BK)
        variance_K = moments.covariance_KK.diagonal()
        return module.model.weight.clone(), moments.correlation_KK, variance_K, energies_BK


def row_angle(before_KD: Tensor, after_KD: Tensor) -> Tensor:
    """Return the mean angle, in degrees, between rows before and after; shape ``()``, float64."""
    first, second = (normalize(w.double(), dim=-1) for w in (before_KD, after_KD))
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


def _data(trainer: pl.Trainer) -> ResidentDataModule:
    return trainer.datamodule  # type: ignore[attr-defined]
