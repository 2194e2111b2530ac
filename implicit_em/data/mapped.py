"""Samples that stay in their files: mapped, and gathered a few rows at a time."""

from collections.abc import Iterator, Sequence
from copy import copy
from mmap import MADV_DONTNEED, MADV_NORMAL, MADV_RANDOM, mmap
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import psutil
import torch
from torch import Tensor

from implicit_em.base.errors import ConfigError
from implicit_em.data.resident import as_unit_float
from implicit_em.models.normalizing import Normalizer

LARGE = 2**30
"""Largest size, in bytes as float32, of mapped samples that are used like a tensor in memory."""
TOUCHED = 2**28
"""Number of bytes of a mapping that may lie in memory before they are given back."""
AROUND = 2**21
"""Number of bytes that a scattered row may bring into memory: a huge page of the file's cache."""
VALUES = 2**22
"""Number of values to copy or normalise at a time."""


class MappedFile(NamedTuple):
    """Samples in a file that is mapped into memory."""

    path: Path
    values: Tensor
    """The samples, shape ``(N, ...)``."""
    mapping: mmap


class MappedSamples:
    """Samples ``(N, ...)`` that stay in mapped files, used in place of a tensor.

    The files may be larger than memory. Rows that are asked for are tensors on ``device``. The
    pages of the files are given back again and again: otherwise the process would hold all that it
    has touched.

    Args:
        files: files whose samples follow one another, of one shape and dtype.
    """

    def __init__(self, files: Sequence[MappedFile]) -> None:
        self.files = files
        self.device = files[0].values.device
        self._ends = torch.tensor([len(file.values) for file in files]).cumsum(0)
        self._rows: Tensor | None = None
        self._normalizer: Normalizer | None = None
        self._touched = 0

    @property
    def shape(self) -> torch.Size:
        """The shape ``(N, ...)``."""
        count = int(self._ends[-1]) if self._rows is None else len(self._rows)
        return torch.Size((count, *self.files[0].values.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the rows that are gathered."""
        return normalized(self.files[0].values[:0], self._normalizer).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> "MappedSamples":
        """Return the samples of these rows, int64; they also stay in the files."""
        chosen = copy(self)
        chosen._rows = self._rows_of(rows)
        return chosen

    def flatten(self, start: int) -> "MappedSamples":
        """Return the samples with the dimensions from ``start`` on flattened into one."""
        flat = copy(self)
        flat.files = [file._replace(values=file.values.flatten(start)) for file in self.files]
        return flat

    def normalized(self, normalizer: Normalizer) -> "MappedSamples":
        """Return samples whose rows are normalised when they are asked for."""
        changed = copy(self)
        changed._normalizer = normalizer
        return changed

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Return a tensor of these rows, int64; the only ``dim`` is 0."""
        rows = self._rows_of(rows)
        chosen = self.files[0].values.new_empty(len(rows), *self.shape[1:])
        for number, places in self._by_file(rows):
            if len(places) == len(rows):
                self._gather(number, rows, chosen)
            else:
                part = chosen.new_empty(len(places), *self.shape[1:])
                self._gather(number, rows[places], part)
                chosen.index_copy_(0, places, part)
        return normalized(chosen, self._normalizer).to(self.device)

    def read_ahead(self, rows: Tensor) -> None:
        """Have the system read the files that hold these rows, int64, while others are used."""
        paths = [self.files[number].path for number, _ in self._by_file(self._rows_of(rows))]
        Thread(target=_read_through, args=(paths,), daemon=True).start()

    def _by_file(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of each file that holds some rows, and their places in ``rows``."""
        numbers = torch.bucketize(rows, self._ends, right=True)
        order = numbers.argsort(stable=True)
        for places in order.split(numbers.bincount().tolist()):
            if len(places):
                yield int(numbers[places[0]]), places

    def _gather(self, number: int, rows: Tensor, chosen: Tensor) -> None:
        """Copy rows of a file; they count over all files."""
        _, values, mapping = self.files[number]
        rows = rows - (self._ends[number] - len(values))
        # Around scattered rows, the system would read many times as much as is needed.
        together = len(rows) and rows.max() - rows.min() < 4 * len(rows)
        mapping.madvise(MADV_NORMAL if together else MADV_RANDOM)
        size = max(1, len(rows) if together else TOUCHED // AROUND)
        for part, into in zip(rows.split(size), chosen.split(size), strict=True):
            torch.index_select(values, 0, part, out=into)
            self._touched += into.nbytes + AROUND * (1 if together else len(part))
            if self._touched > TOUCHED:
                for file in self.files:
                    file.mapping.madvise(MADV_DONTNEED)
                self._touched = 0

    def split(self, size: int) -> Iterator[Tensor]:
        """Iterate over the samples, ``size`` at a time."""
        for rows in torch.arange(len(self)).split(size):
            yield self.index_select(0, rows)

    def to(self, device: torch.device) -> "Tensor | MappedSamples":
        """Return a copy on a CUDA device with enough room, or else samples whose rows go there."""
        if device.type == "cuda" and 2 * self._bytes < torch.cuda.mem_get_info(device)[0]:
            return self._whole(device)
        moved = copy(self)
        moved.device = device
        return moved

    def in_memory(self) -> Tensor:
        """Return a copy in memory, or raise ``ConfigError`` if it does not fit."""
        if self._bytes > (free := psutil.virtual_memory().available):
            raise ConfigError(
                f"data: {self._bytes / 1e9:.1f} GB of samples must be held in memory, but only "
                f"{free / 1e9:.1f} GB are free"
            )
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

    def _rows_of(self, rows: Tensor) -> Tensor:
        rows = rows.cpu()
        return rows if self._rows is None else self._rows[rows]


Samples = Tensor | MappedSamples


def normalized(values: Tensor, normalizer: Normalizer | None) -> Tensor:
    """Return normalised samples, in float32 or more; for ``None``, the samples as they are."""
    return values if normalizer is None else normalizer(as_unit_float(values))


def all_normalized(samples: Samples, normalizer: Normalizer) -> Samples:
    """Return normalised samples ``(N, D)``: a new tensor, unless they stay in their file."""
    if isinstance(samples, MappedSamples):
        return samples.normalized(normalizer)
    whole = torch.empty_like(samples, dtype=normalized(samples[:0], normalizer).dtype)
    size = rows_at_once(samples.shape)
    for part, rows in zip(whole.split(size), samples.split(size), strict=True):
        part.copy_(normalized(rows, normalizer))
    return whole


def _read_through(paths: Sequence[Path]) -> None:
    """Read files from beginning to end, so that the system has them in memory."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(AROUND):
                pass


def rows_at_once(shape: torch.Size) -> int:
    """Return the number of rows to copy or normalise at a time, given the shape of all samples."""
    return max(1, VALUES // max(1, shape[1:].numel()))
