"""The Lightning strategy of several processes that take the steps of one."""

from typing import Any

import torch.distributed as dist
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from implicit_em.base import interruption


class GlobalBatch(DDPStrategy):
    """One process a device; ``EnergyModule``'s step sees to the statistics and the gradients.

    The module is not wrapped, and the processes are those that ``train.py`` has started, or
    ``torchrun``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(cluster_environment=LightningEnvironment(), **options)

    def _configure_launcher(self) -> None:
        """Start no processes."""

    def setup_environment(self) -> None:
        """Meet the other processes.

        Raises:
            ValueError: if nobody has started them.

        """
        assert self.cluster_environment is not None
        if self.world_size > 1 and not self.cluster_environment.creates_processes_externally:
            raise ValueError(
                f"trainer: this is one process, and {self.world_size} are needed; train.py starts "
                "them, and torchrun does"
            )
        super().setup_environment()

    def configure_ddp(self) -> None:
        """Begin with the weights of the first process."""
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            dist.broadcast(tensor, 0)

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the others, and listen to signals.

        Lightning's handler of SIGTERM, in place before its barrier "run-stage", broadcasts wherever
        it finds the process, which may be in another exchange.
        """
        interruption.listen()
        super().barrier(*args, **kwargs)
