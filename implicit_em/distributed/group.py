"""Several processes that train one run, each with a part of every batch.

What the model gives for the parts is gathered into the whole batch, on which every process computes
the objective; each goes backward through its own samples, and the gradients of the weights are then
added up. So the statistics are those of the whole batch, and a step is that of one process alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torchmetrics.utilities.distributed import gather_all_tensors

PER_SAMPLE = frozenset({"x", "energies", "reconstruction", "active", "gates", "auxiliary"})
"""Tensors that a loss term may ask for which have a row for each sample; any other is a weight."""


@dataclass(frozen=True)
class Group:
    """The processes of a run; by default one alone.

    Args:
        rank: of this process.
        size: number of processes.

    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, trainer: pl.Trainer) -> "Group":
        """Return the processes that a Trainer is one of."""
        return cls(trainer.global_rank, trainer.world_size)

    def part(self, samples: int) -> slice:
        """Return which of so many samples are this process's: parts of one size, but for the last.

        The part may be empty.
        """
        most = -(-samples // self.size)
        return slice(self.rank * most, (self.rank + 1) * most)

    def join(self, own_BD: Tensor) -> Tensor:
        """Return the samples of all processes, of which each may have any number."""
        return own_BD if self.size == 1 else torch.cat(gather_all_tensors(own_BD))

    def gather(self, outputs: Mapping[str, Tensor], samples: int) -> dict[str, Tensor]:
        """Return what all processes together have computed.

        Going backward from there leads each process to the gradient of its own samples, and to its
        share of the gradient where all have the same.

        Args:
            outputs: by the names that loss terms ask for, of shape ``(1, B', ...)`` for this
                process's part of the samples.
            samples: number B of samples in all.

        """
        return {
            name: _Gathered.apply(outputs[name], self, samples)
            if name in PER_SAMPLE
            else _Shared.apply(outputs[name], self.size)
            for name in sorted(outputs)  # in one order everywhere; that of a set of names is not
        }

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum over all processes in place of each parameter's gradient."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        total = parameters_to_vector(gradients)
        dist.all_reduce(total)
        vector_to_parameters(total, gradients)


class _Gathered(Function):
    """Rows of all processes; every process computes the same from them, so none sends gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Group, samples: int) -> Tensor:
        ctx.rows = group.part(samples)
        most = -(-samples // group.size)
        sent = own.new_zeros(most, own.shape[-1])
        sent[: own.shape[-2]] = own[0]
        everyone = own.new_empty(group.size * most, own.shape[-1])
        dist.all_gather(list(everyone.split(most)), sent)
        return everyone[None, :samples]  # what is missing of a part is missing at the end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad[:, ctx.rows], None, None


class _Shared(Function):
    """A tensor that all processes have: together they give its gradient once."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: int) -> Tensor:
        ctx.processes = processes
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad / ctx.processes, None
