"""The launcher, in a module that Hydra does not import itself because submitit may be missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

from hydra_plugins.stacked_launcher.stacked_launcher import StackedLauncher


@dataclass
class SlurmStackedConf(SlurmQueueConf):
    """Settings of submitit's launcher, and the largest number of jobs in an array task."""

    _target_: str = "hydra_plugins.slurm_stacked_launcher._launcher.SlurmStackedLauncher"
    max_stack: int = 24


ConfigStore.instance().store(
    group="hydra/launcher",
    name="submitit_slurm_stacked",
    node=SlurmStackedConf(),
    provider="implicit_em",
)


class SlurmStackedLauncher(SlurmLauncher):
    """Submits an array in which each task runs the stacked launcher on its share of the jobs."""

    def __init__(self, max_stack: int, **queue: Any) -> None:
        super().__init__(**queue)
        self.stacked = StackedLauncher(max_stack)
        self.shares: dict[int, tuple[int, list[Sequence[str]]]] = {}
        """For each task number, the number of its first job and the overrides of its jobs."""

    def setup(self, **context: Any) -> None:
        """Set up both launchers."""
        super().setup(**context)
        self.stacked.setup(**context)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs and return their results, in the order of their overrides."""
        from implicit_em.engine.rendezvous import split_evenly

        first, shown = initial_job_idx, []
        shares = split_evenly(job_overrides, self.stacked.max_stack)
        for task, share in enumerate(shares, initial_job_idx):
            self.shares[task] = first, share
            shown.append([f"[{' '.join(filter_overrides(overrides))}]" for overrides in share])
            first += len(share)
        return [job for task in super().launch(shown, initial_job_idx) for job in task]

    def __call__(
        self,
        sweep_overrides: list[str],
        job_dir_key: str,
        job_num: int,
        job_id: str,
        singleton_state: dict[Any, Any],
    ) -> list[JobReturn]:
        """Run the jobs of a task on its node."""
        from submitit.core.utils import UncompletedJobError

        Singleton.set_state(singleton_state)
        first, share = self.shares[job_num]
        try:
            return list(self.stacked.launch(share, first))
        except UncompletedJobError as error:  # raising it would hide the other tasks
            return [JobReturn(job, status=JobStatus.FAILED, _return_value=error) for job in share]
