"""The launcher. Hydra imports every plugin at start-up, so torch must not be imported here."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)


@dataclass
class StackedLauncherConf:
    """Settings: the largest number of jobs that train together if the memory suffices."""

    _target_: str = "hydra_plugins.stacked_launcher.stacked_launcher.StackedLauncher"
    max_stack: int = 64


ConfigStore.instance().store(
    group="hydra/launcher", name="stacked", node=StackedLauncherConf, provider="implicit_em"
)


class StackedLauncher(Launcher):
    """Runs all jobs in this process: jobs that can be stacked train together, the rest in turn."""

    def __init__(self, max_stack: int) -> None:
        self.max_stack = max_stack

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep Hydra's context, the task function and the sweep's configuration."""
        self.config, self.task_function = config, task_function
        self.hydra_context = hydra_context

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs and return their results, in the order of their overrides."""
        from implicit_em.sweeps.jobs import JobComposer
        from implicit_em.sweeps.stacked import groups, progress_of, train_together

        setup_globals()
        self._log_as_a_sweep()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        composer = JobComposer(self.config, self.hydra_context.config_loader)
        jobs = [composer.compose(overrides) for overrides in job_overrides]
        for number, job in enumerate(jobs, initial_job_idx):
            with open_dict(job):
                job.hydra.job.id = job.hydra.job.num = number
        returns: dict[int, JobReturn] = {}
        sweep = HydraConfig.instance().cfg
        specs = _shareable(jobs)
        for group in groups(specs, self.max_stack):
            log.info(
                "%s:", "One job by itself" if len(group) == 1 else f"{len(group)} jobs together"
            )
            for position in group:
                overrides = " ".join(filter_overrides(job_overrides[position]))
                log.info("\t#%d : %s", initial_job_idx + position, overrides)
            # Two sweeps in one directory must claim jobs in the same order, or they deadlock.
            group.sort(key=lambda position: str(jobs[position].hydra.sweep.subdir))
            runs = [partial(self._run, jobs[position]) for position in group]
            if len(group) == 1:
                returns[group[0]] = runs[0]()
            else:
                together = [specs[position] for position in group]
                progress = progress_of(together)
                try:
                    returns |= zip(group, train_together(together, runs, progress), strict=True)
                finally:  # each job has replaced it
                    HydraConfig.instance().cfg = sweep
                    if progress is not None:
                        progress.close()
            self._log_as_a_sweep()
        return [returns[position] for position in range(len(jobs))]

    def _log_as_a_sweep(self) -> None:
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)

    def _run(self, job: DictConfig) -> JobReturn:
        return run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=job,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def _shareable(jobs: Sequence[DictConfig]) -> list[Any]:
    """Return the ``RunSpec`` of each job, or ``None`` for a job that must run alone.

    A job runs alone if it changes the process, does not train, or has the directory of an earlier
    job and will find it complete.
    """
    from implicit_em.training.spec import RunSpec

    directories: set[str] = set()
    specs: list[Any] = []
    for job in jobs:
        directory = str(OmegaConf.select(job, "hydra.sweep.subdir"))
        alone = job.hydra.job.chdir or job.hydra.job.env_set or directory in directories
        is_run = "trainer" in job and "model" in job
        specs.append(RunSpec.of(job) if is_run and not alone else None)
        directories.add(directory)
    return specs
