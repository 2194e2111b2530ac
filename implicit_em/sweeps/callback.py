"""The Hydra callback that checks a run, or every job of a sweep, before anything trains."""

from pathlib import Path
from typing import Any, ClassVar

from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_em.base.errors import ConfigError, RefusedError, WriteError
from implicit_em.config.mistakes import explain
from implicit_em.config.schema import validated
from implicit_em.sweeps import launchers
from implicit_em.sweeps.jobs import enumerate_jobs, note_jobs

GROUPS_SHOWN = ("model", "loss", "data")
"""Config groups whose options the first line of a run names."""


class CheckCallback(Callback):
    """Refuses a wrong configuration before its run directory exists."""

    sweep_directory: ClassVar[Path | None] = None
    """Directory of the sweep that this process started."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the configuration of a single run, and say where it goes."""
        task = _without_hydra(config)
        try:
            validated(task)  # which needs none of the libraries that take seconds to load
        except ConfigError as error:
            raise RefusedError(str(error), error) from error
        chosen = (f"{group}={config.hydra.runtime.choices.get(group)}" for group in GROUPS_SHOWN)
        print(f"{config.hydra.run.dir}: {' '.join(chosen)} seed={task.seed}", flush=True)
        _check(config, config.hydra.run.dir, here=True)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the configuration of each job; one that cannot be trained stops the sweep."""
        if reason := launchers.refusal(config):
            raise RefusedError(reason, ConfigError(reason))
        loader = GlobalHydra.instance().config_loader()
        typed = list(enumerate_jobs(config, loader))
        print(f"{config.hydra.sweep.dir}: {len(typed) or 'a sweep of'} jobs", flush=True)
        jobs = {}
        for overrides in typed:
            try:
                job = loader.load_sweep_config(config, overrides)
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                reason = explain(error, overrides, loader, config.hydra.job.config_name)
                raise RefusedError(reason, error) from error
            directory = Path(job.hydra.sweep.dir) / job.hydra.sweep.subdir
            jobs[directory.name] = ",".join(filter_overrides(overrides))
            _check(job, directory, here=launchers.run_here(config))
        CheckCallback.sweep_directory = Path(config.hydra.sweep.dir)
        try:
            note_jobs(CheckCallback.sweep_directory, jobs)
        except WriteError as error:
            raise RefusedError(str(error), error) from error


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _check(config: DictConfig, directory: str | Path, here: bool) -> None:
    from implicit_em.config.check import check  # imports torch, which --help does not need
    from implicit_em.config.spec import RunSpec
    from implicit_em.training.directory import RunDirectory
    from implicit_em.training.resuming import continued

    task = _without_hydra(config)
    try:
        resumed = task.resume is not None
        if resumed:
            if config.hydra.mode == RunMode.MULTIRUN:
                raise ConfigError(
                    f"resume={task.resume}: one run goes on; a sweep does when its command is "
                    "typed again with its hydra.sweep.dir"
                )
            task = continued(task, config.hydra.overrides.task)
        spec = RunSpec.of(task, config.hydra)
        check(spec, here)
        refusal = RunDirectory(directory).refusal(spec)
        if refusal and not (resumed or spec.settings["overwrite"]):
            raise ConfigError(refusal)
    except ConfigError as error:
        raise RefusedError(str(error), error) from error
