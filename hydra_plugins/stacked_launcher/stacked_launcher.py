"""The launcher. Hydra imports every plugin at each start, so torch must wait for the jobs."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)


@dataclass
class StackedLauncherConf:
    """Settings of the launcher.

    Args:
        max_stack: most jobs that train together; fewer where memory does not hold them.

    """

    _target_: str = "hydra_plugins.stacked_launcher.stacked_launcher.StackedLauncher"
    max_stack: int = 64


ConfigStore.instance().store(
    group="hydra/launcher", name="stacked", node=StackedLauncherConf, provider="implicit_em"
)


class StackedLauncher(Launcher):
    """Runs all jobs in this process; those that can be stacked train together, the rest in turn.

    Args:
        max_stack: most jobs that train together.

    Raises:
        ValueError: if that is less than 1.

    """

    config: DictConfig
    task_function: TaskFunction
    hydra_context: HydraContext

    def __init__(self, max_stack: int) -> None:
        if max_stack < 1:
            raise ValueError(f"hydra.launcher.max_stack={max_stack}: must be at least 1")
        self.max_stack = max_stack

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives every launcher."""
        self.config, self.task_function = config, task_function
        self.hydra_context = hydra_context

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs and return their results, in the order of their overrides."""
        from implicit_em.sweeps.stacked import groups

        setup_globals()
        self._log_as_a_sweep()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        jobs = [
            self._compose(overrides, initial_job_idx + position)
            for position, overrides in enumerate(job_overrides)
        ]
        returns: dict[int, JobReturn] = {}
        for group in groups([_shareable(job) for job in jobs], self.max_stack):
            log.info(
                "%s:", "One job by itself" if len(group) == 1 else f"{len(group)} jobs together"
            )
            for position in group:
                typed = " ".join(filter_overrides(job_overrides[position]))
                log.info("\t#%d : %s", initial_job_idx + position, typed)
            some = [jobs[position] for position in group]
            done = [self._run(*some)] if len(some) == 1 else self._run_together(some)
            returns |= zip(group, done, strict=True)
            self._log_as_a_sweep()
        return [returns[position] for position in range(len(jobs))]

    def _log_as_a_sweep(self) -> None:
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        job = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(job):
            job.hydra.job.id = number
            job.hydra.job.num = number
        return job

    def _run(self, job: DictConfig) -> JobReturn:
        return run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=job,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )

    def _run_together(self, jobs: Sequence[DictConfig]) -> list[JobReturn]:
        """Run each job in a thread, with what Hydra has once a process: its config and logging."""
        from threadpoolctl import threadpool_limits

        from implicit_em.sweeps.stacked import progress_of, rendezvous_for

        own = HydraConfig.instance().cfg
        handlers = _root_handlers_of(threading.current_thread())
        of_the_sweep = len(handlers)
        rendezvous = rendezvous_for(jobs, progress_of(jobs))
        under_way = []
        try:
            for job in jobs:
                future, thread = rendezvous.start(partial(self._run, job))
                handlers += _root_handlers_of(thread)
                under_way.append(future)
            logging.root.handlers = handlers
            with threadpool_limits(jobs[0].trainer.threads):  # the probes' own limits are no one's
                rendezvous.conduct()
            return [future.result() for future in under_way]
        finally:
            rendezvous.close()
            for handler in handlers[of_the_sweep:]:
                handler.close()
            HydraConfig.instance().cfg = own


def _shareable(job: DictConfig) -> DictConfig | None:
    """Return the run's configuration; ``None`` for a job that changes its process, or no run."""
    if job.hydra.job.chdir or job.hydra.job.env_set or "trainer" not in job or "model" not in job:
        return None
    return OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])


def _root_handlers_of(thread: threading.Thread) -> list[logging.Handler]:
    """Return the handlers of the root logger, from now on for what this thread logs."""
    from implicit_em.terminal import logs_of

    for handler in logging.root.handlers:
        handler.addFilter(logs_of(thread))
    return list(logging.root.handlers)
