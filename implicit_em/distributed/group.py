"""Several processes that train one run, each with a part of every batch.

Every process gathers the outputs of all parts and computes the objective of the whole batch. Each
then goes backward through its own samples, and the gradients of the weights are added up. So the
statistics are over the complete batch, and a step is the step of one process alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torchmetrics.utilities.distributed import gather_all_tensors

from implicit_em.base import interruption
from implicit_em.codes import Code, Pattern

PER_SAMPLE = {"x", "target", "data_target", "energies", "reconstruction", "auxiliary"}
PER_SAMPLE |= {"active", "gates", "slab"}
"""Names of the tensors for loss terms that have a row for each sample; the others are weights."""


@dataclass(frozen=True)
class Group:
    """The processes of a run, by default one; ``rank`` is the number of this one, from 0."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, trainer: pl.Trainer) -> "Group":
        """Return the processes of a Trainer."""
        return cls(trainer.global_rank, trainer.world_size)

    def part(self, samples: int) -> slice:
        """Return this process's part of a batch; the last parts may be smaller, or empty."""
        most = -(-samples // self.size)
        return slice(self.rank * most, (self.rank + 1) * most)

    def join(self, samples_BD: Tensor) -> Tensor:
        """Return the samples of all processes; each may bring any number of them."""
        return samples_BD if self.size == 1 else torch.cat(gather_all_tensors(samples_BD))

    def gather(self, outputs: Mapping[str, Any], samples: int) -> dict[str, Any]:
        """Return the outputs ``(1, B, ...)`` of all processes, for a batch of B samples.

        Backward gives each process the gradient of its own samples, and its share of the gradient
        of weights. Codes are gathered as codes.
        """
        return {
            name: self._gather_one(name, outputs[name], samples)
            for name in sorted(outputs)  # every process needs the same order
        }

    def _gather_one(self, name: str, output: Any, samples: int) -> Any:
        if isinstance(output, Code):
            return self._gather_code(output, samples)
        if name in PER_SAMPLE:
            return _Gathered.apply(output, self, samples)
        return _Shared.apply(output, self.size)

    def _gather_code(self, code: Code, samples: int) -> Code:
        units = code.shape[1]
        first = min(self.part(samples).start, samples)
        flat_N = self.join(code.pattern.flat_N + first * units)
        values_N = _GatheredEntries.apply(code.values_N, self, int((flat_N < first * units).sum()))
        return Code(values_N, Pattern.of_flat((samples, units), flat_N))

    def agrees(self, here: bool, device: torch.device) -> bool:
        """Return whether something holds in every process; they exchange it on a device."""
        holds = torch.tensor(int(here), device=device)
        dist.all_reduce(holds, dist.ReduceOp.MIN)
        return bool(holds)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each parameter's gradient by the sum over all processes."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        total = parameters_to_vector(gradients)
        dist.all_reduce(total)
        vector_to_parameters(total, gradients)


class _Gathered(Function):
    """Rows of all processes; each computes the same from the rows and exchanges no gradients."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Group, samples: int) -> Tensor:
        ctx.own = (slice(None), group.part(samples))
        most = -(-samples // group.size)
        padded = part.new_zeros(most, part.shape[-1])
        padded[: part.shape[-2]] = part[0]
        gathered = part.new_empty(group.size * most, part.shape[-1])
        dist.all_gather(list(gathered.split(most)), padded)
        return gathered[None, :samples]  # only the last parts are padded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad[ctx.own], None, None


class _GatheredEntries(_Gathered):
    """Entries of all processes; each may have any number of them."""

    @staticmethod
    def forward(ctx: Any, values_N: Tensor, group: Group, before: int) -> Tensor:
        ctx.own = slice(before, before + len(values_N))
        return group.join(values_N)


class _Shared(Function):
    """A tensor that all processes hold; the sum of their gradients counts it once."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: int) -> Tensor:
        ctx.processes = processes
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad / ctx.processes, None


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
