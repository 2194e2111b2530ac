"""One run: from a composed configuration to a finished run directory."""

import logging
import platform
import time
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.distributed import get_default_backend_for_device

from implicit_em import interruption
from implicit_em.checkpoints import LastCheckpoint, resume_point, stop_if_requested
from implicit_em.config import check, module_arguments, to_plain, trainer_flags
from implicit_em.convergence import convergence_epoch
from implicit_em.data import ResidentDataModule, as_unit_float
from implicit_em.distributed import GlobalBatch
from implicit_em.errors import ConfigError, Interrupted, RunError, WriteError, one_line
from implicit_em.features import save_feature_grid
from implicit_em.files import whole
from implicit_em.fingerprint import RESULTS_SCHEMA, config_fingerprint
from implicit_em.history import HistoryLogger
from implicit_em.loading import save_model
from implicit_em.modules import EnergyModule, module_class
from implicit_em.probe import linear_probe
from implicit_em.processes import leave, run_together
from implicit_em.quiet import quieten
from implicit_em.rendezvous import current
from implicit_em.resuming import continued
from implicit_em.rundir import RunDirectory
from implicit_em.terminal import EpochProgress, print_result, working
from implicit_em.tracking import finish_logger, log_again, start_logger

log = logging.getLogger(__name__)

MONITORING_SHARE = 0.05
"""Most of the training time that the curves may cost by default."""
MONITORING_COST = 0.4
"""Cost of measuring an image against training on it, but for the redundancy of a wide layer."""

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
    with run.held():
        try:
            finished = run.claim(cfg, hydra_cfg, resumed)
        except RunError as error:
            log.error("refused: %s", error)
            raise
        if finished:
            log.info("%s is complete already: reused", run.path)
            return finished
        plain = to_plain(cfg)
        labels = _labels(plain, hydra_cfg)
        if plain["trainer"]["strategy"] != "auto":
            trainer = build_trainer(plain, logger=False, enable_checkpointing=False)
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
        log.info("completed: final loss %.5g, %s", metrics["final_loss"], run.path)
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
        module, trainer, _ = _fit(cfg, run, data, None, _metrics_so_far(cfg))
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
    module, trainer, losses = _fit(cfg, run, data, logger, metrics)
    if not losses:
        raise ConfigError("trainer: these flags end the run before its first epoch does")
    metrics |= {"final_loss": losses[-1], "convergence_epoch": convergence_epoch(losses)}
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


def _fit(
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
    checkpoint, done = resume_point(run.checkpoint, history.restore())
    history.forget_after(done)
    progress = _progress(cfg)
    if checkpoint:
        log.info("goes on after epoch %d of %d", done, cfg["trainer"]["max_epochs"])
        for shown in progress:
            shown.skip(done)
        log_again(logger, history.rows)
    callbacks = [instantiate(spec) for spec in cfg["callbacks"].values()]
    saving = LastCheckpoint(run.checkpoint, **cfg["checkpoint"])
    trainer = build_trainer(
        cfg,
        enable_progress_bar=False,  # Lightning's own
        logger=[history, *([logger] if logger else []), *progress],
        callbacks=[*callbacks, saving],
        default_root_dir=run.path,
        check_val_every_n_epoch=cfg["metrics_every"]
        or _monitoring_interval(data, module.model.weight.shape[-2]),
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
    try:
        return pl.Trainer(**{"profiler": NoProfiler()} | trainer_flags(cfg) | arguments)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"trainer: {one_line(error)}") from error


def evaluate_module(
    module: EnergyModule, data: ResidentDataModule, trainer: pl.Trainer
) -> dict[str, float | int | None]:
    """Return the final metrics on the test set; what cannot be computed is ``None``."""
    trainer.test(module, datamodule=data, verbose=False)
    results = {key: float(trainer.callback_metrics[key]) for key in map(str, module.finals)}
    counts = ("dead_units", "silent_units")
    return {
        key: None if np.isnan(value) else int(value) if key in counts else value
        for key, value in results.items()
    }


@torch.no_grad()
def energies_of(module: EnergyModule, samples: Tensor, batch_size: int = 2_000) -> np.ndarray:
    """Return the energies ``(N, K)`` of samples ``(N, D)``, batch by batch, float32 at least."""
    weight = module.model.weight
    batches = (as_unit_float(batch.to(weight.device)) for batch in samples.split(batch_size))
    energies = torch.cat([module(batch.to(weight.dtype)).cpu() for batch in batches])
    return energies.to(torch.promote_types(weight.dtype, torch.float32)).numpy()


def probe_module(
    module: EnergyModule, data: ResidentDataModule, threads: int | None
) -> float | None:
    """Return the linear probe's test accuracy on the energies, with a line of its own.

    Training labels of a single class leave nothing to tell apart: ``None``.
    """
    train_samples, train_labels = data.split("train")
    test_samples, test_labels = data.split("test")
    indices = data.train_indices()
    if len(train_labels[indices].unique()) < 2:
        log.info("no linear probe: the training labels are of a single class")
        return None
    with working("linear probe on the training features"):
        accuracy = linear_probe(
            energies_of(module, train_samples[indices]),
            train_labels[indices].cpu().numpy(),
            energies_of(module, test_samples),
            test_labels.cpu().numpy(),
            threads,
        )
    log.info("linear probe: %.2f %% of the test images", 100 * accuracy)
    return accuracy


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


def monitoring_cost(images: int, components: int, in_features: int) -> float:
    """Return what measuring one of N images costs against training on it; `make bench` prints it.

    Training takes 4 to 6 D K operations; the redundancy at most 2 min(N, K) K, in float64, which
    count twice: about min(N, K) / D. Measured at MNIST's size on one thread: 0.36 at K = 64, 0.67
    at 256, 1.6 at 1,024 and 5.0 at 4,096.
    """
    return MONITORING_COST + min(images, components) / in_features


def _monitoring_interval(data: ResidentDataModule, components: int) -> int:
    """Epochs between measurements, by arithmetic, so that equal runs have equal histories."""
    images = len(data.monitored_indices())
    cost = monitoring_cost(images, components, data.in_features)
    return max(1, int(np.ceil(cost * images / len(data.train_indices()) / MONITORING_SHARE)))


def _labels(cfg: Mapping[str, Any], hydra_cfg: DictConfig | None) -> dict[str, Any]:
    """Return by what a logger groups runs: the sweep, the model and the experiment."""
    tags = [cfg["model"]["_target_"].rpartition(".")[2]]
    if hydra_cfg is None:
        return {"group": None, "tags": tags}
    sweep = Path(hydra_cfg.sweep.dir).name if hydra_cfg.mode == RunMode.MULTIRUN else None
    experiment = hydra_cfg.runtime.choices.get("experiment")
    return {"group": sweep, "tags": [*tags, *([experiment] if experiment else [])]}


def _device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    name = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    return name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"
