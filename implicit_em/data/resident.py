"""Batches and blocks of batches from a data set in memory."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implicit_em.distributed import Group

log = logging.getLogger(__name__)


def as_unit_float(values: Tensor, out: Tensor | None = None) -> Tensor:
    """Return bytes as float32 in [0, 1], floating-point values as they are.

    Args:
        values: tensor of any shape, uint8 or floating point.
        out: tensor to write to, in its dtype; ``None`` for a new one.
    """
    if values.is_floating_point():
        return values if out is None else out.copy_(values)
    return torch.div(values, 255, out=out)


Shuffle = Callable[[Tensor, np.random.Generator], list[Tensor]]
"""Function that puts rows, int64, in a random order: windows, which follow one another."""


def in_one_window(rows: Tensor, generator: np.random.Generator) -> list[Tensor]:
    """Return a permutation of all rows."""
    return [rows[torch.from_numpy(generator.permutation(len(rows)))]]


@dataclass(eq=False)
class ResidentLoader:
    """Sized, resumable iterable of batches ``(inputs_BD, labels_B)``.

    The data stay where they are: on the training device, as uint8. A batch is one gather, scaled to
    float32 in [0, 1]. The order of an epoch is a permutation drawn from ``(seed, epoch)`` alone,
    whatever else uses random numbers. A new iteration goes on to the next epoch, unless
    ``set_epoch`` names another. The last batch may be smaller. It is left out if it would hold a
    single sample to train on, which has no variance, or if ``drop_last`` says so and it is not the
    only one.

    Args:
        inputs: samples of shape ``(N, D)``, uint8 or floating point.
        labels: classes of the samples, shape ``(N,)``.
        batch_size: number of samples in a batch.
        seed: seed of the permutations; ``None`` keeps the order of ``indices``, to measure on.
        indices: rows to use, int64; ``None`` for all.
        group: processes of the run, each of which gets its part of every batch, possibly empty.
        shuffle: order of an epoch, in windows.
        drop_last: whether to leave out the last batch if it would be smaller, and not the only one.
    """

    inputs: Any
    labels: Tensor
    batch_size: int
    seed: int | None = None
    indices: Any = None
    group: Group = field(default_factory=Group)
    shuffle: Shuffle = in_one_window
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.indices is None:
            self.indices = torch.arange(len(self.inputs))
        self.epoch = 0
        self._batch = 0  # number of batches of this epoch handed out so far
        self._resuming = False
        if self._leaves_one_out:
            log.info("The last batch would hold a single sample, which has no variance: left out.")

    @property
    def _leaves_one_out(self) -> bool:
        trains = self.seed is not None
        return trains and self.batch_size > 1 and len(self.indices) % self.batch_size == 1

    batch_sampler = None  # Lightning reads it beside ``sampler``

    @property
    def sampler(self) -> "ResidentLoader":
        """The loader itself: Lightning announces each epoch to ``loader.sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, which starts at its first batch.

        After ``load_state_dict``, an interrupted epoch goes on where it stopped.
        """
        if not (self._resuming and epoch == self.epoch):
            self.epoch, self._batch, self._resuming = epoch, 0, False

    def windows(self) -> list[Tensor]:
        """Return this epoch's order of the samples, int64: windows, which follow one another."""
        if self.seed is None:
            return [self.indices]
        return self.shuffle(self.indices, np.random.default_rng((self.seed, self.epoch)))

    def __len__(self) -> int:
        full, rest = divmod(len(self.indices), self.batch_size)
        dropped = self._leaves_one_out or (self.drop_last and full)
        return full + bool(rest and not dropped)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in self.index_batches():
            part = indices[self.group.part(len(indices))].to(self.inputs.device)
            yield as_unit_float(self.inputs.index_select(0, part)), self.labels[part]

    def blocks(self, size: int) -> Iterator["Block"]:
        """Iterate over the batches in blocks of ``size``; the last block may hold fewer."""
        batches = self.index_batches()
        while block := list(islice(batches, size)):
            yield Block(self.inputs, block)

    def index_batches(self) -> Iterator[Tensor]:
        """Iterate over the rows of each batch of all processes, int64 of shape ``(B,)``."""
        self._go_on()
        batches = torch.cat(self.windows()).split(self.batch_size)
        for batch in batches[self._batch : len(self)]:
            self._batch += 1
            yield batch

    def _go_on(self) -> None:
        """Set the position from which an iteration goes on."""
        # It is cleared here, not after the last batch: Lightning never asks for one more.
        if self._resuming:
            self._resuming = False
        elif self._batch:
            self.set_epoch(self.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the position: the epoch, and the number of its batches handed out."""
        return {"epoch": self.epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position of ``state_dict``."""
        self.epoch, self._batch = state["epoch"], state["batch"]
        self._resuming = True


@dataclass(eq=False)
class Block:
    """Consecutive batches that one call of ``training_step`` trains on.

    Iteration returns inputs of shape ``(B, D)`` in their own dtype. Blocks are equal if they hold
    the same samples in the same batches.

    Args:
        inputs: samples of shape ``(N, D)``.
        batches: rows of each batch, int64, on the CPU, where comparing them waits for no device.
    """

    inputs: Tensor
    batches: list[Tensor]

    def __post_init__(self) -> None:
        self.sizes = tuple(map(len, self.batches))

    def __iter__(self) -> Iterator[Tensor]:
        rows = torch.cat(self.batches).to(self.inputs.device, non_blocking=True)
        for indices in rows.split(self.sizes):
            yield self.inputs.index_select(0, indices)

    def part(self, group: Group) -> "Block":
        """Return this process's part of each batch."""
        if group.size == 1:
            return self
        return type(self)(self.inputs, [batch[group.part(len(batch))] for batch in self.batches])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Block)
            and self.inputs is other.inputs
            and self.sizes == other.sizes
            and all(map(torch.equal, self.batches, other.batches))
        )

    __hash__ = None  # type: ignore[assignment]


def batches_of(blocks: Sequence[Block], dtype: torch.dtype) -> Iterator[Tensor]:
    """Iterate over the batches of S blocks of equal sizes, shape ``(S, B, D)``.

    Batches of one size are one tensor, which holds each batch until the next one is asked for: the
    first write to fresh memory costs more than the copy.
    """
    inputs = blocks[0].inputs
    buffers = {
        size: torch.empty(len(blocks), size, inputs.shape[-1], dtype=dtype, device=inputs.device)
        for size in blocks[0].sizes
    }
    for size, batches in zip(blocks[0].sizes, zip(*blocks, strict=True), strict=True):
        for batch, out in zip(batches, buffers[size], strict=True):
            as_unit_float(batch, out)
        yield buffers[size]


class BlockLoader:
    """Iterable of the batches of a ``ResidentLoader``, in blocks.

    Lightning's loop costs the same for a block as for a batch, and for a small model more than to
    train on the batch.

    Args:
        resident: loader of the batches; it keeps the position.
        size: number of batches in a block; the last block of an epoch may hold fewer.
    """

    batch_sampler = None

    def __init__(self, resident: ResidentLoader, size: int) -> None:
        self.resident = resident
        self.size = size
        self.state_dict = resident.state_dict
        self.load_state_dict = resident.load_state_dict

    @property
    def sampler(self) -> ResidentLoader:
        """The resident loader: Lightning announces each epoch to it."""
        return self.resident

    def __len__(self) -> int:
        return -(-len(self.resident) // self.size)

    def __iter__(self) -> Iterator[Block]:
        return self.resident.blocks(self.size)
