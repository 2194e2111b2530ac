"""One run: from a composed configuration to a finished run directory."""

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf
from torch.distributed import get_default_backend_for_device

from implicit_em.base import interruption
from implicit_em.base.errors import ConfigError, Interrupted, RunError, WriteError, one_line
from implicit_em.base.files import whole
from implicit_em.base.locking import locked
from implicit_em.base.quiet import quieten
from implicit_em.distributed.processes import leave, run_together
from implicit_em.engine.rendezvous import current
from implicit_em.metrics.feature_grid import feature_grid, feature_summary, is_image, save_figure
from implicit_em.training.check import check
from implicit_em.training.checkpoints import continued
from implicit_em.training.directory import RunDirectory
from implicit_em.training.fitting import Fit
from implicit_em.training.measurement import energies_of, evaluate_module, l0_reached, probe_module
from implicit_em.training.results import begun, print_result, without_infinities
from implicit_em.training.spec import RunSpec
from implicit_em.training.tracking import finish_logger, start_logger

log = logging.getLogger(__name__)

SAMPLES_SHOWN = 2_000
"""Number of final samples whose energies the picture shows if samples are not images."""


def train(cfg: DictConfig, directory: str | Path | None = None) -> dict[str, Any]:
    """Train, evaluate and write the run directory.

    A run that is already complete in the directory is not trained again.

    Args:
        cfg: composed configuration.
        directory: path of the run directory; by default Hydra's output directory.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ConfigError: if the configuration cannot be trained, or the directory holds another run.
        Interrupted: if a signal asked for it; the same call resumes the run.
        Exception: any other reason of a failure, which ``metrics.json`` then names.
    """
    with interruption.listening():
        interruption.stop_if_requested()
        hydra_cfg: Any = HydraConfig.get() if HydraConfig.initialized() else None
        resumed = cfg.resume is not None
        if resumed:
            directory = cfg.resume
            cfg = continued(cfg, hydra_cfg.overrides.task if hydra_cfg else ())
        elif directory is None and hydra_cfg is None:
            raise ConfigError("train(cfg) outside of @hydra.main needs a directory")
        spec = RunSpec.of(cfg, hydra_cfg)
        check(spec)
        quieten()
        return _train_once(spec, RunDirectory(directory or hydra_cfg.runtime.output_dir), resumed)


def _train_once(spec: RunSpec, run: RunDirectory, resumed: bool) -> dict[str, Any]:
    """Train with the directory locked, unless the run is already complete there."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(run.path))
            complete = run.claim(spec, resumed)
        except RunError as error:
            log.error("error: %s", error)
            raise
        if complete:
            log.info("%s is complete already: reused", run.path)
            return complete
        if spec.takes_processes:
            return _train_in_processes(spec, run)
        return _train_here(spec, run)


def _train_here(spec: RunSpec, run: RunDirectory) -> dict[str, Any]:
    """Train, measure and write in this process; whatever happens, ``metrics.json`` comes last."""
    metrics = begun(spec)
    logger = fit = None
    try:
        data = spec.build_data()
        for remark in data.remarks():
            log.info("%s", remark)
        config = spec.settings | {"config_fingerprint": spec.fingerprint}
        logger = start_logger(spec.settings["logger"], run.path, config, spec.group, spec.tags)
        fit = Fit.prepare(spec, run, data, logger)
        metrics |= fit.train()
        _measure(fit, metrics)
        _save(fit, run)
        metrics["status"] = "completed"
    except Interrupted as error:
        epochs = fit.so_far["epochs"] if fit else 0
        log.warning("%s; epochs complete: %s; the same command goes on", error, epochs)
        raise
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning raises either for Ctrl-C
        raise KeyboardInterrupt from error
    except Exception as error:
        kind = "" if isinstance(error, RunError) else f"{type(error).__name__}: "
        metrics |= {"status": "failed", "error": (reason := kind + one_line(error))}
        log.error("%s: %s", "error" if isinstance(error, ConfigError) else "failed", reason)
        raise
    finally:
        metrics = without_infinities(metrics | (fit.so_far if fit else {}))
        try:
            _write_metrics(run, metrics)
        finally:
            finish_logger(logger, metrics, run.features)
    _show(metrics, run)
    return metrics


def _measure(fit: Fit, metrics: dict[str, Any]) -> None:
    """Add the final metrics and the linear probe's accuracy to a run's metrics."""
    metrics |= evaluate_module(fit.module, fit.data, fit.trainer)
    target, l0 = metrics["l0_target"], metrics["l0"]
    if target is not None and l0 is not None:
        metrics["l0_reached"] = l0_reached(target, l0, fit.controlled)
    if fit.trainer.world_size > 1:
        leave()
    interruption.stop_if_requested()
    if fit.spec.settings["probe"] == "none":
        return
    started = time.monotonic()
    threads = fit.spec.settings["trainer"]["threads"]
    metrics["probe_accuracy"] = probe_module(fit.module, fit.data, threads)
    metrics["probe_seconds"] = round(time.monotonic() - started, 3)


def _save(fit: Fit, run: RunDirectory) -> None:
    """Write the model and, if the run has one, the picture of its features."""
    model, data = fit.module.model, fit.data
    arguments = fit.spec.model_arguments(data.in_features, data.out_features)
    run.write_model(model, arguments, data.sample_shape, data.normalizer)
    if not fit.spec.settings["picture"]:
        return
    weight_KD = model.weight.detach().cpu().float().numpy()
    # Rows of another width than the samples' belong to a model that transforms its input.
    if is_image(data.sample_shape) and weight_KD.shape[1] == data.in_features:
        figure = feature_grid(weight_KD, data.sample_shape)
    else:
        some = next(iter(data.final_samples()[0].split(SAMPLES_SHOWN)))
        figure = feature_summary(weight_KD, energies_of(model, some))
    with whole(run.features) as temporary:
        save_figure(figure, temporary)


def _write_metrics(run: RunDirectory, metrics: dict[str, Any]) -> None:
    """Write ``metrics.json``; a ``WriteError`` must not hide the error of a failed run."""
    try:
        run.write_metrics(metrics)
    except WriteError as error:
        log.error("%s", error)
        if metrics["status"] == "completed":
            raise


def _show(metrics: dict[str, Any], run: RunDirectory) -> None:
    """Print the table of a single run, or log one line for a run that trained in a stack."""
    if current() is None:
        print_result(metrics, str(run.path))
    else:
        loss = metrics["final_loss"]
        outcome = "without training" if loss is None else f"final loss {loss:.5g}"
        log.info("completed: %s, %s", outcome, run.path)


def _train_in_processes(spec: RunSpec, run: RunDirectory) -> dict[str, Any]:
    """Train in one process for each device; this process only records a failure."""
    trainer = spec.build_trainer(logger=False, enable_checkpointing=False)
    backend = get_default_backend_for_device(trainer.strategy.root_device)
    try:
        spec.build_data()  # here, because only one process may download and unpack the data
        run_together(_take_part, (spec, run), trainer.world_size, backend)
    except BaseException as error:
        metrics = run.read_metrics() or begun(spec)
        if isinstance(error, Exception):
            reason = str(error).strip().rpartition("\n")[2]  # last line of a traceback
            if metrics["error"] != reason:
                log.error("failed: %s", reason)
            metrics |= {"status": "failed", "error": reason}
        _write_metrics(run, metrics)
        raise
    written = run.read_metrics()
    assert written is not None
    return written


def _take_part(rank: int, spec: RunSpec, run: RunDirectory) -> None:
    """Train as one of several processes, of which only the first measures and writes."""
    quieten()
    if rank == 0:
        if spec.hydra is not None:  # log as the process that started this one
            cfg = OmegaConf.create({"hydra": spec.hydra})
            configure_log(cfg.hydra.job_logging, cfg.hydra.verbose)
        _train_here(spec, run)
    else:
        spec.settings["trainer"]["enable_progress_bar"] = False
        fit = Fit.prepare(spec, run, spec.build_data(), None)
        fit.train()
        evaluate_module(fit.module, fit.data, fit.trainer)
