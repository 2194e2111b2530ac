"""The data, the Trainer and the loop of one run, from its last checkpoint on."""

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from implicit_em.base.errors import ConfigError, one_line
from implicit_em.config.check import module_arguments, trainer_flags
from implicit_em.config.fingerprint import run_identity
from implicit_em.data import ResidentDataModule, as_unit_float
from implicit_em.engine.modules import EnergyModule, module_class
from implicit_em.engine.rendezvous import current
from implicit_em.training.checkpoints import (
    DirectCheckpointIO,
    LastCheckpoint,
    resume_point,
    stop_if_requested,
)
from implicit_em.training.directory import RunDirectory
from implicit_em.training.history import HistoryLogger
from implicit_em.training.measurement import monitoring_interval
from implicit_em.training.progress import EpochProgress, working
from implicit_em.training.tracking import log_again

log = logging.getLogger(__name__)


def load_data(cfg: Mapping[str, Any]) -> ResidentDataModule:
    """Build the data module of a plain configuration and read its data.

    Raises:
        ConfigError: if they cannot be had, or read.

    """
    try:
        data: ResidentDataModule = instantiate(cfg["data"])
        data.prepare_data()
        data.setup()
    except (OSError, RuntimeError, ValueError, TypeError, InstantiationException) as error:
        raise ConfigError(f"data: {one_line(error)}") from error
    return data


def build_trainer(cfg: Mapping[str, Any], **arguments: Any) -> pl.Trainer:
    """Build the Trainer of a plain configuration.

    Raises:
        ConfigError: if Lightning refuses a flag, or this machine has no such device.

    """
    own: dict[str, Any] = {"profiler": NoProfiler(), "plugins": [DirectCheckpointIO()]}
    if cfg["trainer"]["strategy"] == "auto":  # on Slurm, too, where submitit alone requeues a job
        own["plugins"].append(LightningEnvironment())
    try:
        return pl.Trainer(**own | trainer_flags(cfg) | arguments)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"trainer: {one_line(error)}") from error


def fit(
    cfg: dict[str, Any],
    run: RunDirectory,
    data: ResidentDataModule,
    logger: Logger | None,
    metrics: dict[str, Any],
) -> tuple[EnergyModule, pl.Trainer, list[float]]:
    """Train from the last checkpoint on; returns the epochs' losses too, in the first process."""
    if cfg["trainer"]["threads"]:
        torch.set_num_threads(cfg["trainer"]["threads"])
    pl.seed_everything(cfg["seed"], verbose=False)
    arguments = module_arguments(cfg, data.in_features)
    module = module_class(cfg["model"]["_target_"])(**arguments)
    metrics["parameters"] = sum(p.numel() for p in module.model.parameters())

    history = HistoryLogger(run.history)
    identity = run_identity(cfg)
    checkpoint, done = resume_point(run.checkpoint, identity, history.restore())
    history.forget_after(done)
    start_seconds = 0.0 if checkpoint else _start(module.model, data)
    progress = _progress(cfg)
    if checkpoint:
        log.info("goes on after epoch %d of %d", done, cfg["trainer"]["max_epochs"])
        for shown in progress:
            shown.skip(done)
        log_again(logger, history.rows)
    callbacks = [instantiate(spec) for spec in cfg["callbacks"].values()]
    saving = LastCheckpoint(run.checkpoint, identity, **cfg["checkpoint"])
    saving.train_seconds = start_seconds
    trainer = build_trainer(
        cfg,
        enable_progress_bar=False,  # Lightning's own
        logger=[history, *([logger] if logger else []), *progress],
        callbacks=[*callbacks, saving],
        default_root_dir=run.path,
        check_val_every_n_epoch=cfg["metrics_every"]
        or monitoring_interval(data, module.model.weight.shape[-2]),
    )
    metrics["device"] = _device_name(trainer)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    finally:
        if (together := current()) is not None:
            together.leave()
        metrics["train_seconds"] = round(saving.train_seconds, 3)
        metrics["epochs"] = len(history.column("train/loss"))
    stop_if_requested(trainer)
    return module, trainer, history.column("train/loss")


def _start(model: Any, data: ResidentDataModule) -> float:
    """Show a model that wants it the training samples before it trains; gives the seconds taken."""
    started = time.monotonic()
    if hasattr(model, "start"):
        samples, _ = data.split("train")
        x = as_unit_float(samples[data.train_indices()]).to(model.weight.dtype)
        name = type(model).__name__
        with working(f"{name} starts from the training samples"):
            try:
                model.start(x)
            except ValueError as error:
                raise ConfigError(
                    f"model: {name} with {len(model.weight)} units cannot start from training "
                    f"samples of shape {tuple(x.shape)}: {one_line(error)}"
                ) from error
    return time.monotonic() - started


class NoProfiler(Profiler):
    """Measures nothing; Lightning's own enters some thirty generators a step to do so."""

    _nothing = nullcontext()

    def start(self, action_name: str) -> None:
        """Measure nothing."""

    def stop(self, action_name: str) -> None:
        """Measure nothing."""

    def profile(self, action_name: str) -> Any:
        """Return a context that does nothing."""
        return self._nothing


def _progress(cfg: Mapping[str, Any]) -> list[EpochProgress]:
    together = current()
    if together is not None:
        return [together.progress] if together.progress else []
    shown = cfg["trainer"]["enable_progress_bar"]
    return [EpochProgress(cfg["trainer"]["max_epochs"])] if shown else []


def _device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    name = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    return name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"
