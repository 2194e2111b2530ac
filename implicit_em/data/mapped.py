"""Samples that stay in their file: mapped, and gathered a few rows at a time."""

from collections.abc import Iterator
from copy import copy
from mmap import MADV_DONTNEED, MADV_NORMAL, MADV_RANDOM, mmap

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
AT_ONCE = 2**22
"""Number of values to copy or normalise at a time."""


class MappedSamples:
    """Samples ``(N, ...)`` that stay in a mapped file, used in place of a tensor.

    The file may be larger than memory. Rows that are asked for are tensors on ``device``. The pages
    of the file are given back again and again: otherwise the process would hold all that it has
    touched.

    Args:
        values: samples of the file, shape ``(N, ...)``.
        file: mapping of the file.
    """

    def __init__(self, values: Tensor, file: mmap) -> None:
        self.values = values
        self.device = values.device
        self._file = file
        self._rows: Tensor | None = None
        self._normalizer: Normalizer | None = None
        self._touched = 0

    @property
    def shape(self) -> torch.Size:
        """The shape ``(N, ...)``."""
        count = len(self.values) if self._rows is None else len(self._rows)
        return torch.Size((count, *self.values.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the rows that are gathered."""
        return normalized(self.values[:0], self._normalizer).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> "MappedSamples":
        """Return the samples of these rows, int64; they also stay in the file."""
        chosen = copy(self)
        chosen._rows = self._rows_of(rows)
        return chosen

    def flatten(self, start: int) -> "MappedSamples":
        """Return the samples with the dimensions from ``start`` on flattened into one."""
        flat = copy(self)
        flat.values = self.values.flatten(start)
        return flat

    def normalized(self, normalizer: Normalizer) -> "MappedSamples":
        """Return samples whose rows are normalised when they are asked for."""
        changed = copy(self)
        changed._normalizer = normalizer
        return changed

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Return a tensor of these rows, int64; the only ``dim`` is 0."""
        rows = self._rows_of(rows)
        # Around scattered rows, the system would read many times as much as is needed.
        together = len(rows) and rows.max() - rows.min() < 4 * len(rows)
        self._file.madvise(MADV_NORMAL if together else MADV_RANDOM)
        chosen = self.values.new_empty(len(rows), *self.values.shape[1:])
        size = max(1, len(rows) if together else TOUCHED // AROUND)
        for part, into in zip(rows.split(size), chosen.split(size), strict=True):
            torch.index_select(self.values, dim, part, out=into)
            self._touched += into.nbytes + AROUND * (1 if together else len(part))
            if self._touched > TOUCHED:
                self._file.madvise(MADV_DONTNEED)
                self._touched = 0
        return normalized(chosen, self._normalizer).to(self.device)

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


def rows_at_once(shape: torch.Size) -> int:
    """Return the number of rows to copy or normalise at a time, given the shape of all samples."""
    return max(1, AT_ONCE // max(1, shape[1:].numel()))
