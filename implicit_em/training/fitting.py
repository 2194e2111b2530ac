"""The fit of one run: its module and its Trainer, which continue from the last checkpoint."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning.loggers import Logger

from implicit_em.base.errors import ConfigError, raising
from implicit_em.base.progress import working
from implicit_em.data import ResidentDataModule
from implicit_em.engine.control import START_SAMPLES, start_near
from implicit_em.engine.modules import EnergyModule
from implicit_em.engine.rendezvous import current
from implicit_em.metrics.convergence import convergence_epoch
from implicit_em.models import SparseAutoencoder
from implicit_em.training.check import refuse_what_memory_cannot_hold
from implicit_em.training.checkpoints import (
    DirectCheckpointIO,
    LastCheckpoint,
    resume_point,
    stop_if_requested,
)
from implicit_em.training.decoding import BATCH, encoded
from implicit_em.training.directory import RunDirectory
from implicit_em.training.history import EpochProgress, HistoryLogger
from implicit_em.training.measurement import monitored_samples, monitoring_interval
from implicit_em.training.spec import RunSpec
from implicit_em.training.steps import StepLog
from implicit_em.training.tracking import log_again

log = logging.getLogger(__name__)

COMPARED = 2048
"""Largest number of held-out samples whose L0 is measured after each epoch."""


@dataclass(frozen=True)
class Fit:
    """Everything that the training of one run needs; ``saving`` also counts the seconds."""

    spec: RunSpec
    data: ResidentDataModule
    module: EnergyModule
    trainer: pl.Trainer
    history: HistoryLogger
    saving: LastCheckpoint
    checkpoint: Path | None

    @classmethod
    def prepare(
        cls, spec: RunSpec, run: RunDirectory, data: ResidentDataModule, logger: Logger | None
    ) -> "Fit":
        """Build the module and the Trainer, and find the checkpoint to resume from."""
        settings = spec.settings
        if settings["trainer"]["threads"]:
            torch.set_num_threads(settings["trainer"]["threads"])
        refuse_what_memory_cannot_hold(spec, data.in_features, data.out_features)
        pl.seed_everything(settings["seed"], verbose=False)
        module = spec.build_module(data.in_features, data.out_features)
        history = HistoryLogger(run.history)
        whose, statistics = (run.checkpoint, spec.identity), data.normalized_by
        checkpoint, done = resume_point(*whose, history.restore(), statistics)
        history.forget_after(done)
        saving = LastCheckpoint(*whose, history, statistics, **settings["checkpoint"])
        every = settings["trainer"]["log_every_n_steps"]
        if checkpoint:
            log.info("goes on after epoch %d of %d", done, settings["trainer"]["max_epochs"])
            rows = sorted(history.rows.items())
            log_again(logger, ({**row, "epoch": epoch - 1} for epoch, row in rows), "epoch")
        else:
            saving.train_seconds = _start(spec, module, data)
        progress = _progress(spec)  # after the start, which shows a line of its own on a terminal
        if progress is not None:
            progress.skip(done)
        own = progress if progress is not None and progress.runs == 1 else None
        trainer = spec.build_trainer(
            plugins=[DirectCheckpointIO()],
            enable_progress_bar=False,  # Lightning's own
            logger=[one for one in (history, logger, progress) if one is not None],
            callbacks=[
                *map(instantiate, settings["callbacks"].values()),
                *([HeldOut(data)] if module.control is not None and data.val_size else []),
                StepLog(run.steps, every, data, logger, own),
                saving,
            ],
            default_root_dir=run.path,
            check_val_every_n_epoch=settings["metrics_every"]
            or monitoring_interval(data, module.model.weight.shape[-2]),
        )
        return cls(spec, data, module, trainer, history, saving, checkpoint)

    def train(self) -> dict[str, Any]:
        """Train to the end, and return the final loss and the epoch at which the run converged.

        Raises ``Interrupted`` if a signal asked for it, after everything is saved.
        """
        try:
            self.trainer.fit(
                self.module, datamodule=self.data, ckpt_path=self.checkpoint, weights_only=True
            )
        finally:
            if (together := current()) is not None:
                together.leave()
        stop_if_requested(self.trainer)
        losses = self._losses
        epochs = self.spec.settings["trainer"]["max_epochs"]
        if epochs and not losses and self.trainer.is_global_zero:
            raise ConfigError("trainer: these flags end the run within its first epoch")
        last = losses[-1] if losses else None
        return {"final_loss": last, "convergence_epoch": convergence_epoch(losses)}

    @property
    def _losses(self) -> list[float]:
        return self.history.column("train/loss")  # filled only in the first process

    @property
    def controlled(self) -> dict[str, float]:
        """Means of the settings that a control of L0 changed, over the last epoch."""
        settings = self.module.controlled if self.module.control is not None else []
        return {one.key: self.history.column(f"control/{one.name}")[-1] for one in settings}

    @property
    def so_far(self) -> dict[str, Any]:
        """Entries of ``metrics.json`` about the training so far; a failed run has them, too."""
        return {
            "parameters": sum(p.numel() for p in self.module.model.parameters()),
            "epochs": len(self._losses),
            "train_seconds": round(self.saving.train_seconds, 3),
            "device": _device_name(self.trainer),
        }


class HeldOut(pl.Callback):
    """Tells the control of L0, after each epoch, how many units are active on held-out samples."""

    def __init__(self, data: ResidentDataModule) -> None:
        self.samples = monitored_samples(data, COMPARED)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log ``control/held_out_l0`` and compare it with the L0 of the batches."""
        batches = [energies for energies, _ in encoded(pl_module.model, self.samples, BATCH)]
        l0 = (torch.cat(batches) > 0).sum(-1).double().mean()
        pl_module.log("control/held_out_l0", l0)
        pl_module.control.compare(l0)


def _start(spec: RunSpec, module: EnergyModule, data: ResidentDataModule) -> float:
    """Initialise a model that starts from the training samples, and return the seconds taken."""
    started = time.monotonic()
    model = module.model
    if model.start:
        x, target = model.sides(data.starting_samples().to(model.weight.dtype))
        x = target if isinstance(model, SparseAutoencoder) else x
        name = type(model).__name__
        subject = (
            f"model: {name} with {len(model.weight)} units cannot start from training samples of "
            f"shape {tuple(x.shape)}"
        )
        with (
            working(f"{name} starts from the training samples"),
            raising(ConfigError, subject, ValueError),
        ):
            model.start(x)
    l0 = spec.settings["model"].get("l0")
    if l0 is not None and (module.control is not None or model.tied):
        start_near(l0, model, lambda: model.sides(data.starting_samples(START_SAMPLES))[0])
    return time.monotonic() - started


def _progress(spec: RunSpec) -> EpochProgress | None:
    """Return the progress of the runs that train together, or of this run alone, if it is shown."""
    if (together := current()) is not None:
        return together.progress
    trainer = spec.settings["trainer"]
    return EpochProgress(trainer["max_epochs"]) if trainer["enable_progress_bar"] else None


def _device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    name = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    return name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"
