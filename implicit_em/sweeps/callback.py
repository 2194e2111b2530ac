"""The Hydra callback that checks a run, or every job of a sweep, before anything trains."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import filter_overrides
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from implicit_em.base.errors import ConfigError, EndedError, RunError, one_line
from implicit_em.base.imports import quick_imports
from implicit_em.base.progress import working
from implicit_em.config.composing import REFUSALS, explain, shadowed, typed, unresolved
from implicit_em.sweeps import launchers
from implicit_em.sweeps.job_directories import begin_sweep, note_jobs
from implicit_em.sweeps.jobs import JobComposer, enumerate_jobs, fixed_keys


class CheckCallback(Callback):
    """Refuses a wrong configuration before Hydra makes its run directory."""

    sweep_directory: ClassVar[Path | None] = None
    """Directory of the sweep that this process started."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the configuration of a single run."""
        with refusing(config):
            choices, resumed = config.hydra.runtime.choices, config.resume
            shown = " ".join(f"{group}={choices.get(group)}" for group in ("model", "loss", "data"))
            run = f"{shown} seed={config.seed}" if resumed is None else f"resume={resumed}"
            with working(f"checking {run}", say=None):
                _begin(config)
                _check(config, config.hydra.run.dir, here=True)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the configuration of every job; a single wrong one stops the sweep."""
        jobs: dict[str, str] = {}
        reasons: set[str] = set()
        with refusing(config):
            with working("checking the jobs", say=None):
                _begin(config)
                for overrides, job in composed_jobs(config):
                    name = str(Path(job.hydra.sweep.subdir))
                    directory = Path(job.hydra.sweep.dir) / name
                    jobs[name] = ",".join(filter_overrides(overrides))
                    _check(job, directory, here=launchers.run_here(config))
                    _refuse_again(job, reasons)
            CheckCallback.sweep_directory = Path(config.hydra.sweep.dir)
            note_jobs(CheckCallback.sweep_directory, jobs)


@contextmanager
def refusing(config: DictConfig) -> Iterator[None]:
    """Raise ``EndedError`` for any error, of which Hydra would warn before it starts the job.

    A launcher that cannot start is refused, and so is a file of settings that would not be read.
    """
    try:
        if reason := launchers.refusal(config) or shadowed(config):
            raise ConfigError(reason)
        yield
    except OmegaConfBaseException as error:
        raise EndedError(error, unresolved(error)) from error
    except Exception as error:
        named = f"{type(error).__name__}: {one_line(error)}"
        said = str(error) if isinstance(error, RunError) else named
        raise EndedError(error, said) from error


def composed_jobs(config: DictConfig) -> Iterator[tuple[list[str], DictConfig]]:
    """Yield the overrides and configuration of each job, or raise ``EndedError``."""
    loader = GlobalHydra.instance().config_loader()
    composer = JobComposer(config, loader)
    overrides = typed(config)
    try:
        begin_sweep(Path(config.hydra.sweep.dir), fixed_keys(config, loader))
        for overrides in enumerate_jobs(config, loader):
            yield overrides, composer.compose(overrides)
    except REFUSALS as error:
        reason = explain(error, overrides, loader, config.hydra.job.config_name)
        raise EndedError(error, reason) from error


def _begin(config: DictConfig) -> None:
    """Import what a run needs, which --help does not, and warn of keys that nothing reads."""
    with quick_imports():
        if config.hydra.runtime.choices.get("logger") == "wandb":
            # The first run needs it. Its classes look for their source in all imported modules, so
            # the import takes 0.1 s of processor time before torch, and 1 s after it.
            with suppress(ImportError):
                import wandb.apis.public  # noqa: F401
        import implicit_em.training.run  # noqa: F401
        from implicit_em.config.schema import unread

    for override in unread(config):
        print(f"warning: {override}: nothing reads this key", file=sys.stderr)


def _refuse_again(job: DictConfig, reasons: set[str]) -> None:
    """Raise ``ConfigError`` for a second job on data that a single run of a sweep can use."""
    data: Any = get_class(job.data._target_)
    if (reason := data.for_one_run(job.data)) in reasons:
        raise ConfigError(reason)
    reasons |= {reason} - {None}


def _check(config: DictConfig, directory: str | Path, here: bool) -> None:
    from implicit_em.training.check import check
    from implicit_em.training.checkpoints import continued
    from implicit_em.training.directory import RunDirectory
    from implicit_em.training.spec import RunSpec

    task = config
    resumed = config.resume is not None
    if resumed:
        if config.hydra.mode == RunMode.MULTIRUN:
            raise ConfigError(
                f"resume={config.resume}: only a single run can be resumed; a sweep goes on "
                "when its command is repeated with its hydra.sweep.dir"
            )
        task = continued(config, config.hydra.overrides.task)
    spec = RunSpec.of(task, config.hydra)
    check(spec, here)
    refusal = RunDirectory(directory).refusal(spec)
    if refusal and not (resumed or spec.settings["overwrite"]):
        raise ConfigError(refusal)
