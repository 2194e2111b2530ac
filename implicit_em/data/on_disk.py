"""Samples that stay in their files, and are read a few rows or a window at a time."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from itertools import accumulate, islice
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from implicit_em.data.arrays import ArrayOnDisk, refuse_beyond_memory, rows_at_once, unchanged
from implicit_em.data.resident import Block, ResidentLoader, as_unit_float
from implicit_em.models.normalizing import Normalizer

LARGE = 2**30
"""Largest size, in bytes as float32, of samples in a file that are read into memory at once."""
PARTS = 8
"""Number of parts in which as many rows are read as are copied at a time."""


class SamplesOnDisk:
    """Samples ``(N, ...)`` that stay in files, for measurements and batches of a few rows.

    The files may be larger than memory. Rows that are asked for are tensors on ``device``.

    Args:
        files: of each file, the arrays whose rows stand side by side in a sample. The samples of
            the files follow one another; all have one shape and dtype.
    """

    def __init__(self, files: Sequence[Sequence[ArrayOnDisk]]) -> None:
        self.files = files
        self.device = torch.device("cpu")
        self.normalizer: Normalizer | None = None
        self._ends = torch.tensor([arrays[0].shape[0] for arrays in files]).cumsum(0)
        self._rows: Tensor | None = None
        # Shared with copies, like the lock: runs that train together read a window once.
        self._windows: WeakValueDictionary[bytes, Future[Tensor]] = WeakValueDictionary()
        self._lock = Lock()

    @property
    def shape(self) -> torch.Size:
        """The shape ``(N, ...)``."""
        count = int(self._ends[-1]) if self._rows is None else len(self._rows)
        *inner, _ = self.files[0][0].shape[1:]
        return torch.Size((count, *inner, sum(array.shape[-1] for array in self.files[0])))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the rows that are returned."""
        return normalized(self._empty(0), self.normalizer).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> "SamplesOnDisk":
        """Return the samples of these rows, int64; they also stay in the files."""
        return self._with(_rows=self._rows_of(rows))

    def flatten(self, start: int) -> "SamplesOnDisk":
        """Return the samples with the dimensions from ``start`` on flattened into one."""
        if len(self.shape) == start + 1:
            return self
        ((array,),) = self.files
        shape = torch.Size((*array.shape[:start], array.shape[start:].numel()))
        return self._with(files=[[replace(array, shape=shape)]])

    def normalized(self, normalizer: Normalizer) -> "SamplesOnDisk":
        """Return samples whose rows are normalised when they are asked for."""
        return self._with(normalizer=normalizer)

    def _with(self, **changes: Any) -> "SamplesOnDisk":
        changed = copy(self)
        vars(changed).update(changes)
        return changed

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Return a tensor of these rows, int64; the only ``dim`` is 0.

        Raises:
            DamagedError: if a file is not as it was when its array was found.
        """
        return normalized(self.read(rows), self.normalizer).to(self.device)

    def window(self, rows: Tensor) -> Future[Tensor]:
        """Let a thread read rows as ``read`` does, and keep them while the result is used."""
        key = self._rows_of(rows).numpy().tobytes()
        with self._lock:
            found = self._windows.get(key)
            if found is None:
                # A thread of its own, because a forked process lacks the threads of a pool.
                found = self._windows[key] = ThreadPoolExecutor(1).submit(self.read, rows)
            return found

    def read(self, rows: Tensor) -> Tensor:
        """Return these rows, int64, as they are in the files; raise as ``index_select`` does."""
        rows = self._rows_of(rows)
        values = self._empty(len(rows))
        few = -(-rows_at_once(self.shape) // PARTS)  # beside a window, memory has little room
        for places in rows.argsort().split(few):
            values.index_copy_(0, places, self._read(rows[places]))
        return values

    def _read(self, rows: Tensor) -> Tensor:
        """Return rows of the files, int64, ascending; they count over all files."""
        values = self._empty(len(rows))
        numbers = torch.bucketize(rows, self._ends, right=True)
        counts = numbers.bincount(minlength=len(self.files)).tolist()
        parts = zip(self.files, self._ends, rows.split(counts), values.split(counts), strict=True)
        for arrays, end, some, out in parts:
            columns = out.split([array.shape[-1] for array in arrays], dim=-1)
            for array, own in zip(arrays, columns, strict=True):
                if len(some):
                    array.read(some - (end - array.shape[0]), own)
        return values

    def check(self) -> None:
        """Raise ``DamagedError`` if a file is not as it was when its array was found."""
        for array, *_ in self.files:
            with unchanged(array.path, array.state):
                pass

    def split(self, size: int) -> Iterator[Tensor]:
        """Iterate over the samples, ``size`` at a time."""
        for rows in torch.arange(len(self)).split(size):
            yield self.index_select(0, rows)

    def to(self, device: torch.device) -> "Tensor | SamplesOnDisk":
        """Return a copy on a CUDA device with enough room, or else samples whose rows go there."""
        if device.type == "cuda" and 2 * self._bytes < torch.cuda.mem_get_info(device)[0]:
            return self._whole(device)
        return self._with(device=device)

    def in_memory(self) -> Tensor:
        """Return a copy in memory, or raise ``ConfigError`` if it does not fit."""
        refuse_beyond_memory(self._bytes)
        return self._whole(self.device)

    @property
    def _bytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize

    def _whole(self, device: torch.device) -> Tensor:
        whole = torch.empty(self.shape, dtype=self.dtype, device=device)
        size = rows_at_once(self.shape)
        for part, rows in zip(whole.split(size), self.split(size), strict=True):
            part.copy_(rows)
        return whole

    def _empty(self, count: int) -> Tensor:
        return torch.empty(count, *self.shape[1:], dtype=self.files[0][0].dtype)

    def _rows_of(self, rows: Tensor) -> Tensor:
        rows = rows.cpu()
        return rows if self._rows is None else self._rows[rows]


Samples = Tensor | SamplesOnDisk


def normalized(values: Tensor, normalizer: Normalizer | None) -> Tensor:
    """Return normalised samples, in float32 or more; for ``None``, the samples as they are."""
    return values if normalizer is None else normalizer(as_unit_float(values))


def all_normalized(samples: Samples, normalizer: Normalizer) -> Samples:
    """Return normalised samples ``(N, D)``: a new tensor, unless they stay in their file."""
    if isinstance(samples, SamplesOnDisk):
        return samples.normalized(normalizer)
    whole = torch.empty_like(samples, dtype=normalized(samples[:0], normalizer).dtype)
    size = rows_at_once(samples.shape)
    for part, rows in zip(whole.split(size), samples.split(size), strict=True):
        part.copy_(normalized(rows, normalizer))
    return whole


class ReadBlock(Block):
    """A block whose batches are values as they were read; each is normalised when it is used.

    Args:
        inputs: where the values come from; it has their ``normalizer`` and ``device``.
        batches: values ``(B, D)`` of each batch.
    """

    def __iter__(self) -> Iterator[Tensor]:
        inputs: Any = self.inputs
        for batch in self.batches:
            yield normalized(batch, inputs.normalizer).to(inputs.device)


class WindowLoader(ResidentLoader):
    """Sized, resumable iterable of batches of samples that are read in windows.

    A window and the next one are in memory. The labels are not read: no training uses them.
    """

    def __iter__(self) -> Iterator[Any]:
        for block in self.blocks(1):
            (batch,) = block.part(self.group)
            yield as_unit_float(batch)

    def blocks(self, size: int) -> Iterator[Block]:
        """Iterate over the batches in blocks of ``size``; the last block may hold fewer."""
        self._go_on()
        batches = self._batches()
        while block := list(islice(batches, size)):
            yield ReadBlock(self.inputs, block)

    def _batches(self) -> Iterator[Tensor]:
        starts = range(0, len(self.indices), self.batch_size)[self._batch : len(self)]
        sizes = (min(self.batch_size, len(self.indices) - start) for start in starts)
        for batch in cut(self.values(self._batch * self.batch_size), sizes):
            self._batch += 1
            yield batch

    def values(self, first: int) -> Iterator[Tensor]:
        """Iterate over the values of each window, beginning with sample ``first`` of the epoch."""
        windows = self.windows()
        ends = [*accumulate(map(len, windows))]
        number = bisect_right(ends, first)
        skipped = first - [0, *ends][number]
        reading = self.inputs.window(windows[number])
        for further in [*windows[number + 1 :], None]:
            following = None if further is None else self.inputs.window(further)
            yield reading.result()[skipped:]
            reading, skipped = following, 0  # the window is forgotten before another is read


def cut(windows: Iterator[Tensor], sizes: Iterable[int]) -> Iterator[Tensor]:
    """Cut windows of values, whose rows follow one another, into batches of these sizes.

    Batches are copies: a view would keep its window in memory.
    """
    values = torch.empty(0)
    for size in sizes:
        parts = []
        while size:
            if not len(values):
                del values
                values = next(windows)
            parts.append(values[:size].clone())
            values = values[size:]
            size -= len(parts[-1])
        yield torch.cat(parts) if len(parts) > 1 else parts[0]
