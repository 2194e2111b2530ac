"""One run: from a composed configuration to a finished run directory."""

import logging
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from torch.distributed import get_default_backend_for_device

from implicit_em.base import interruption
from implicit_em.base.errors import ConfigError, Interrupted, RunError, WriteError, one_line
from implicit_em.base.files import whole
from implicit_em.base.quiet import quieten
from implicit_em.config.check import check, module_arguments, to_plain
from implicit_em.config.fingerprint import RESULTS_SCHEMA, config_fingerprint
from implicit_em.data import ResidentDataModule
from implicit_em.distributed import GlobalBatch
from implicit_em.distributed.processes import leave, run_together
from implicit_em.engine.rendezvous import current
from implicit_em.metrics.convergence import convergence_epoch
from implicit_em.metrics.feature_grid import save_feature_grid
from implicit_em.training.directory import RunDirectory
from implicit_em.training.fitting import build_trainer, fit, load_data
from implicit_em.training.loading import save_model
from implicit_em.training.measurement import evaluate_module, probe_module
from implicit_em.training.progress import print_result
from implicit_em.training.resuming import continued
from implicit_em.training.tracking import finish_logger, start_logger

log = logging.getLogger(__name__)

VERSIONS_OF = ("implicit-em", "torch", "pytorch-lightning", "hydra-core", "numpy", "scikit-learn")

UNKNOWN = dict.fromkeys(
    (
        "parameters",
        "epochs",
        "final_loss",
        "convergence_epoch",
        "dead_units",
        "silent_units",
        "redundancy",
        "responsibility_entropy",
        "maximum_responsibility",
        "density",
        "probe_accuracy",
        "reconstruction_mse",
        "transpose_reconstruction_mse",
        "train_seconds",
        "probe_seconds",
        "device",
    )
)
"""What ``metrics.json`` holds of a run that did not come so far."""


def train(cfg: DictConfig, directory: str | Path | None = None) -> dict[str, Any]:
    """Train, evaluate and write the run directory.

    Args:
        cfg: the composed configuration.
        directory: where to write; Hydra's own output directory inside ``@hydra.main``.

    Returns:
        The content of ``metrics.json``. A directory that holds the same run, complete, gives its
        metrics without training.

    Raises:
        ConfigError: if the configuration cannot be trained, or the directory holds another run.
        Interrupted: if a signal asked for it; the same call goes on from there.
        Exception: what made the run fail; ``metrics.json`` then says so.

    """
    with interruption.listening():
        return _train(cfg, directory)


def _train(cfg: DictConfig, directory: str | Path | None) -> dict[str, Any]:
    interruption.stop_if_requested()
    hydra_cfg: Any = HydraConfig.get() if HydraConfig.initialized() else None
    resumed = cfg.resume is not None
    if resumed:
        directory = cfg.resume
        cfg = continued(cfg, hydra_cfg.overrides.task if hydra_cfg else ())
    if directory is None:
        if hydra_cfg is None:
            raise ConfigError("train(cfg) outside of @hydra.main needs a directory")
        directory = hydra_cfg.runtime.output_dir
    check(cfg, hydra_cfg.runtime.choices if hydra_cfg else None)
    quieten()
    run = RunDirectory(directory)
    plain = to_plain(cfg)
    with run.held():
        try:
            finished = run.claim(cfg, hydra_cfg, resumed)
            trainer = build_trainer(plain, logger=False, enable_checkpointing=False)
        except RunError as error:
            log.error("refused: %s", error)
            raise
        if finished:
            log.info("%s is complete already: reused", run.path)
            return finished
        labels = _labels(plain, hydra_cfg)
        if isinstance(trainer.strategy, GlobalBatch):
            return _train_in_processes(plain, run, labels, trainer, hydra_cfg)
        return _train_here(plain, run, labels)


def _train_here(
    cfg: dict[str, Any], run: RunDirectory, labels: Mapping[str, Any]
) -> dict[str, Any]:
    metrics = _metrics_so_far(cfg)
    logger = None
    try:
        data = load_data(cfg)
        logger = start_logger(
            cfg["logger"],
            run.path,
            config=cfg | {"config_fingerprint": metrics["config_fingerprint"]},
            **labels,
        )
        _fit_and_measure(cfg, run, data, logger, metrics)
        metrics["status"] = "completed"
    except Interrupted as error:
        log.warning("%s after %s epochs: the same command goes on", error, metrics["epochs"] or 0)
        raise
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the one into the other
        raise KeyboardInterrupt from error
    except Exception as error:
        kind = "" if isinstance(error, RunError) else f"{type(error).__name__}: "
        metrics |= {"status": "failed", "error": kind + one_line(error)}
        log.error("failed: %s", metrics["error"])
        raise
    finally:
        try:
            _write_metrics(run, metrics)
        finally:
            finish_logger(logger, metrics, run.features)
    if current() is None:
        print_result(metrics, str(run.path))
    else:
        loss = metrics["final_loss"]
        log.info(
            "completed: %s, %s",
            "as it starts" if loss is None else f"final loss {loss:.5g}",
            run.path,
        )
    return metrics


def _write_metrics(run: RunDirectory, metrics: Mapping[str, Any]) -> None:
    """Write ``metrics.json``; where it cannot be, a run that did not end well keeps its own error.

    Raises:
        WriteError: if the run was complete but for this.

    """
    try:
        run.write_metrics(metrics)
    except WriteError as error:
        log.error("%s", error)
        if metrics["status"] == "completed":
            raise


def _metrics_so_far(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``metrics.json`` holds of a run that has not come anywhere."""
    return {
        "status": "interrupted",
        "error": None,
        "seed": cfg["seed"],
        "config_fingerprint": config_fingerprint(cfg),
        **UNKNOWN,
        "schema": RESULTS_SCHEMA,
        "versions": {name: version(name) for name in VERSIONS_OF}
        | {"python": platform.python_version()},
    }


def _train_in_processes(
    cfg: dict[str, Any],
    run: RunDirectory,
    labels: Mapping[str, Any],
    trainer: pl.Trainer,
    hydra_cfg: DictConfig | None,
) -> dict[str, Any]:
    """Train in a process for each device: the first writes all files, this one why it could not."""
    backend = get_default_backend_for_device(trainer.strategy.root_device)
    try:
        load_data(cfg)  # here, as no two processes must download or unpack them
        run_together(
            _take_part, (cfg, run, labels, _log_settings(hydra_cfg)), trainer.world_size, backend
        )
    except BaseException as error:
        metrics = run.read_metrics() or _metrics_so_far(cfg)
        if isinstance(error, Exception):
            reason = str(error).strip().rpartition("\n")[2]  # of a traceback what was raised
            if metrics["error"] != reason:
                log.error("failed: %s", reason)
            metrics |= {"status": "failed", "error": reason}
        _write_metrics(run, metrics)
        raise
    written = run.read_metrics()
    assert written is not None
    return written


def _take_part(
    rank: int, cfg: dict[str, Any], run: RunDirectory, labels: Mapping[str, Any], logs: Any
) -> None:
    """Do what one of several processes does: the first all of it, the others their computing."""
    quieten()
    if rank == 0:
        if logs is not None:
            configure_log(*logs)
        _train_here(cfg, run, labels)
    else:
        cfg["trainer"]["enable_progress_bar"] = False
        data = load_data(cfg)
        module, trainer, _ = fit(cfg, run, data, None, _metrics_so_far(cfg))
        evaluate_module(module, data, trainer)


def _log_settings(hydra_cfg: DictConfig | None) -> tuple[DictConfig, Any] | None:
    """Return what sets up the log of a process as Hydra has set up that of this one."""
    if hydra_cfg is None:
        return None
    settings: Any = OmegaConf.to_container(hydra_cfg.job_logging, resolve=True)
    return OmegaConf.create(settings), hydra_cfg.verbose


def _fit_and_measure(
    cfg: dict[str, Any],
    run: RunDirectory,
    data: ResidentDataModule,
    logger: Logger | None,
    metrics: dict[str, Any],
) -> None:
    """Train, evaluate and save; fills ``metrics`` on the way."""
    module, trainer, losses = fit(cfg, run, data, logger, metrics)
    if losses:
        metrics |= {"final_loss": losses[-1], "convergence_epoch": convergence_epoch(losses)}
    elif cfg["trainer"]["max_epochs"]:
        raise ConfigError("trainer: these flags end the run before its first epoch does")
    metrics |= evaluate_module(module, data, trainer)
    if trainer.world_size > 1:
        leave()
    interruption.stop_if_requested()
    if cfg["probe"] == "linear":
        started = time.monotonic()
        metrics["probe_accuracy"] = probe_module(module, data, cfg["trainer"]["threads"])
        metrics["probe_seconds"] = round(time.monotonic() - started, 3)
    arguments = module_arguments(cfg, data.in_features)
    save_model(run, module.model, arguments["model"], data.sample_shape)
    with whole(run.features) as temporary:
        weight_KD = module.model.weight.detach().cpu().float().numpy()
        save_feature_grid(weight_KD, data.sample_shape, temporary)


def _labels(cfg: Mapping[str, Any], hydra_cfg: DictConfig | None) -> dict[str, Any]:
    """Return by what a logger groups runs: the sweep, the model and the experiment."""
    tags = [cfg["model"]["_target_"].rpartition(".")[2]]
    if hydra_cfg is None:
        return {"group": None, "tags": tags}
    sweep = Path(hydra_cfg.sweep.dir).name if hydra_cfg.mode == RunMode.MULTIRUN else None
    experiment = hydra_cfg.runtime.choices.get("experiment")
    return {"group": sweep, "tags": [*tags, *([experiment] if experiment else [])]}
