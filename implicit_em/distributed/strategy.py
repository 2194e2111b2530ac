"""The Lightning strategy of several processes that take the steps of one."""

from typing import Any

import torch.distributed as dist
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from implicit_em.base import interruption


class GlobalBatch(DDPStrategy):
    """One process for each device; the step of ``EnergyModule`` exchanges outputs and gradients.

    The module is not wrapped. ``train.py`` or ``torchrun`` starts the processes.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(cluster_environment=LightningEnvironment(), **options)

    def _configure_launcher(self) -> None:
        """Configure no launcher: the processes run already."""

    def setup_environment(self) -> None:
        """Connect to the other processes, if they were started."""
        assert self.cluster_environment is not None
        if self.world_size > 1 and not self.cluster_environment.creates_processes_externally:
            raise ValueError(
                f"trainer: this is one process, and {self.world_size} are needed; start them with "
                "train.py or torchrun"
            )
        super().setup_environment()

    def configure_ddp(self) -> None:
        """Start with the weights of the first process."""
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            dist.broadcast(tensor, 0)

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the other processes, with this package's signal handlers.

        Lightning installs a handler of SIGTERM before its barrier "run-stage". It broadcasts at
        once, even if the process is within another exchange.
        """
        interruption.listen()
        super().barrier(*args, **kwargs)
