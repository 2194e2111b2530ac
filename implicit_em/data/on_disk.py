"""Samples that stay in their files, and are read a few rows or a window at a time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import psutil
import torch
from torch import Tensor

from implicit_em.data.arrays import refuse_beyond_memory, rows_at_once, unchanged
from implicit_em.data.resident import as_unit_float
from implicit_em.models.normalizing import Normalizer

LARGE = 2**30
"""Largest size, in bytes as float32, of samples in a file that are read into memory at once."""


@dataclass(eq=False)
class Window:
    """Rows in memory, as they were read; int64, ascending, without repetitions."""

    rows: Tensor
    values: Future[Tensor]

    @property
    def failed(self) -> bool:
        """Whether the rows could not be read."""
        return self.values.done() and self.values.exception() is not None

    def places(self, rows: Tensor) -> Tensor | None:
        """Return where some rows, int64, lie in ``values``; ``None`` if it lacks one."""
        places = torch.searchsorted(self.rows, rows).clamp_(max=len(self.rows) - 1)
        return places if torch.equal(self.rows[places], rows) else None


class SamplesOnDisk:
    """Samples ``(N, ...)`` that stay in files, used in place of a tensor.

    The files may be larger than memory. Rows that are asked for are tensors on ``device``.

    Args:
        arrays: arrays whose samples follow one another, of one shape and dtype.
    """

    def __init__(self, arrays: Sequence[Any]) -> None:
        self.arrays = arrays
        self.device = torch.device("cpu")
        self._ends = torch.tensor([array.shape[0] for array in arrays]).cumsum(0)
        self._rows: Tensor | None = None
        self._normalizer: Normalizer | None = None
        self._windows: list[Window] = []  # shared with copies, like the lock
        self._lock = Lock()

    @property
    def shape(self) -> torch.Size:
        """The shape ``(N, ...)``."""
        count = int(self._ends[-1]) if self._rows is None else len(self._rows)
        return torch.Size((count, *self.arrays[0].shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the rows that are read."""
        return normalized(self._empty(0), self._normalizer).dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the windows that are in memory."""
        return self._row_bytes * sum(len(window.rows) for window in tuple(self._windows))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> "SamplesOnDisk":
        """Return the samples of these rows, int64; they also stay in the files."""
        return self._with(_rows=self._rows_of(rows))

    def flatten(self, start: int) -> "SamplesOnDisk":
        """Return the samples with the dimensions from ``start`` on flattened into one."""
        if len(self.shape) == start + 1:
            return self
        width = self.shape[start:].numel()
        flat = [replace(a, shape=torch.Size((*a.shape[:start], width))) for a in self.arrays]
        return self._with(arrays=flat, _windows=[])

    def normalized(self, normalizer: Normalizer) -> "SamplesOnDisk":
        """Return samples whose rows are normalised when they are asked for."""
        return self._with(_normalizer=normalizer)

    def _with(self, **changes: Any) -> "SamplesOnDisk":
        changed = copy(self)
        vars(changed).update(changes)
        return changed

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Return a tensor of these rows, int64; the only ``dim`` is 0.

        Raises:
            DamagedError: if a file is not as it was when its array was found.
        """
        rows = self._rows_of(rows)
        for window in tuple(self._windows):
            if (places := window.places(rows)) is not None:
                chosen = window.values.result().index_select(0, places)
                break
        else:
            ascending, places = rows.unique(return_inverse=True)
            chosen = self._read(ascending).index_select(0, places)
        return normalized(chosen, self._normalizer).to(self.device)

    def hold(self, windows: Sequence[Tensor]) -> None:
        """Read the rows of these windows, int64, into memory, and forget any others.

        Threads read them meanwhile. If a window cannot be read, its error is raised when its rows
        are asked for.
        """
        wanted = [self._rows_of(rows).sort().values for rows in windows if len(rows)]
        with self._lock:
            self._windows[:] = [
                window
                for window in self._windows
                if not window.failed and any(torch.equal(window.rows, rows) for rows in wanted)
            ]
            for rows in wanted:
                there = any(torch.equal(window.rows, rows) for window in self._windows)
                if not there and len(rows) * self._row_bytes < psutil.virtual_memory().available:
                    # A thread of its own: those of a pool would be lacking in a forked process.
                    values = ThreadPoolExecutor(1).submit(self._read, rows)
                    self._windows.append(Window(rows, values))

    def check(self) -> None:
        """Raise ``DamagedError`` if a file is not as it was when its array was found."""
        for array in self.arrays:
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

    @property
    def _row_bytes(self) -> int:
        return self._empty(1).nbytes

    def _empty(self, count: int) -> Tensor:
        return torch.empty(count, *self.shape[1:], dtype=self.arrays[0].dtype)

    def _rows_of(self, rows: Tensor) -> Tensor:
        rows = rows.cpu()
        return rows if self._rows is None else self._rows[rows]

    def _read(self, rows: Tensor) -> Tensor:
        """Return rows of the files, int64, ascending; they count over all files."""
        values = self._empty(len(rows))
        numbers = torch.bucketize(rows, self._ends, right=True)
        counts = numbers.bincount(minlength=len(self.arrays)).tolist()
        parts = zip(self.arrays, self._ends, rows.split(counts), values.split(counts), strict=True)
        for array, end, some, out in parts:
            if len(some):
                array.read(some - (end - array.shape[0]), out)
        return values


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
