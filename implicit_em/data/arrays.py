"""Arrays in files: found when their file is opened, read when their values are needed.

A file is read, never mapped. Each read looks at the file's state before and after. So a file that
changes while a run reads it ends the run, and is never taken for the file that was checked.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
import torch
from torch import Tensor

from implicit_em.base.digest import State, digest_of_open, state_of
from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.base.files import opened

DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8},
    **{"C64": torch.complex64, "BOOL": torch.bool},
}
"""Types of the values in a .safetensors file, by their names there."""
LONGEST_HEADER = 10**8
"""Largest size of the header of a .safetensors file in bytes, as in the format's own library."""
VALUES = 2**22
"""Number of values to read, copy or normalise at a time."""
APART = 4
"""Largest distance of two rows that are read in one piece, with those between them."""


@contextmanager
def unchanged(
    path: Path, state: State | None = None, sha256: str | None = None
) -> Iterator[IO[bytes]]:
    """Yield a file to read from, whose state must not change meanwhile.

    Args:
        path: path of the file.
        state: state that the file must be in, ``None`` for any.
        sha256: digest that its content must have, ``None`` for any.

    Raises:
        DamagedError: if the file is not there, or not as it was.
    """
    try:
        with opened(path, buffering=0) as file:
            found = state_of(file.fileno())
            same = state in (None, found) and (sha256 is None or digest_of_open(file) == sha256)
            if same:
                file.seek(0)
                yield file
                same = state_of(file.fileno()) == found
    except FileNotFoundError:
        same = False
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror or error}") from error
    if not same:
        raise DamagedError(
            f"{path}: changed, replaced or deleted since it was checked; once the file is as it "
            "was, the same command goes on"
        )


@dataclass(frozen=True)
class ArrayOnDisk:
    """An array in a file: its rows follow one another from a byte on.

    Args:
        path: the file.
        state: its state when the array was found; reading from any other raises ``DamagedError``.
        start: first byte of the array.
        dtype: type of the values, in the byte order of the machine.
        shape: shape ``(N, ...)``.
    """

    path: Path
    state: State
    start: int
    dtype: torch.dtype
    shape: torch.Size

    @classmethod
    def found(cls, file: IO[bytes], start: int, dtype: torch.dtype, shape: Any) -> "ArrayOnDisk":
        """Return an array of an open file; ``ValueError`` if the file ends before it does."""
        state = state_of(file.fileno())
        array = cls(Path(file.name).absolute(), state, start, dtype, torch.Size(shape))
        if min(start, *shape, 0) < 0 or start + array.nbytes > state[2]:
            raise ValueError("an array ends beyond the end of the file")
        return array

    @property
    def nbytes(self) -> int:
        """Number of bytes of the array."""
        return self.shape.numel() * self.dtype.itemsize

    def whole(self) -> Tensor:
        """Return all values; ``ConfigError`` if memory does not hold them."""
        refuse_beyond_memory(self.nbytes)
        values = torch.empty(self.shape, dtype=self.dtype)
        with unchanged(self.path, self.state) as file:
            _fill(file, self.start, values)
        return values

    def read(self, rows: Tensor, out: Tensor) -> None:
        """Read rows, ascending int64; raise ``DamagedError`` if the file has changed."""
        width = self.shape[1:].numel() * self.dtype.itemsize
        apart = torch.from_numpy(np.flatnonzero(np.diff(rows.numpy()) > APART) + 1)
        with unchanged(self.path, self.state) as file:
            for near, some in zip(rows.tensor_split(apart), out.tensor_split(apart), strict=True):
                first, last = near[[0, -1]].tolist()
                between = torch.empty(last + 1 - first, *self.shape[1:], dtype=self.dtype)
                _fill(file, self.start + first * width, between)
                torch.index_select(between, 0, near - first, out=some)


def in_safetensors(file: IO[bytes]) -> dict[str, ArrayOnDisk]:
    """Return the arrays of a .safetensors file; any error of a wrong header may be raised."""
    size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
    if length > min(size, LONGEST_HEADER):
        raise ValueError(f"{size:,} bytes, and a header of {length:,}")
    header = dict(json.loads(file.read(length)))
    start, arrays = 8 + length, {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if (dtype := DTYPES.get(entry["dtype"])) is None:
            raise TypeError(f"{name} is of {entry['dtype']}; allowed are {', '.join(DTYPES)}")
        first, last = entry["data_offsets"]
        array = arrays[name] = ArrayOnDisk.found(file, start + first, dtype, entry["shape"])
        if first < 0 or array.nbytes != last - first:
            raise ValueError(f"{name}: bytes {first} to {last} do not make {entry['shape']}")
    return arrays


def refuse_beyond_memory(size: int) -> None:
    """Raise ``ConfigError`` if so many bytes are not free in memory."""
    if size > (free := psutil.virtual_memory().available):
        raise ConfigError(
            f"{size / 1e9:.1f} GB of samples must be held in memory, but only "
            f"{free / 1e9:.1f} GB are free"
        )


def rows_at_once(shape: torch.Size) -> int:
    """Return the number of rows to copy or normalise at a time, given the shape of all samples."""
    return max(1, VALUES // max(1, shape[1:].numel()))


def _fill(file: Any, place: int, values: Tensor) -> None:
    """Read a tensor from a place of a file, which is not buffered."""
    content = values.view(-1).view(torch.uint8).numpy().data
    file.seek(place)
    while count := file.readinto(content):  # at most 2 GiB; 0 if the file was cut meanwhile
        content = content[count:]
