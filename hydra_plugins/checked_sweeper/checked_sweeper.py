"""The sweeper. Hydra imports every plugin at start-up, so torch must not be imported here."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class CheckedSweeperConf(BasicSweeperConf):
    """Settings of Hydra's basic sweeper."""

    _target_: str = "hydra_plugins.checked_sweeper.checked_sweeper.CheckedSweeper"


ConfigStore.instance().store(
    group="hydra/sweeper", name="checked", node=CheckedSweeperConf, provider="implicit_em"
)


class CheckedSweeper(BasicSweeper):
    """Hydra's basic sweeper, without its own check that every job can be composed.

    ``CheckCallback`` has composed every job when the sweep starts. Hydra would take tens of
    milliseconds a job to do it again, and as many once more when its launcher runs the job.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Set up the launcher; for Hydra's basic one, ``JobComposer`` composes the jobs."""
        from implicit_em.sweeps import launchers
        from implicit_em.sweeps.jobs import composing_quickly

        if launchers.is_basic(config):
            hydra_context = composing_quickly(hydra_context, config)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Accept all jobs."""
