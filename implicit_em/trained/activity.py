"""Which samples activate which units: found in one pass, kept on disk, read block by block."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from implicit_em.base.errors import RunError
from implicit_em.codes import positions
from implicit_em.training.decoding import BATCH, encoded

BLOCK = 64
"""Number of units that are read at a time, and whose pages share a file."""
BUFFERED = 2**21
"""Number of entries that memory holds before they are written."""
ENTRY = np.dtype([("sample", "<u4"), ("unit", "<u4"), ("value", "<f4")])


@dataclass(frozen=True)
class Unit:
    """The samples that activate a unit.

    Args:
        number: number of the unit.
        samples_E: rows of these samples, in ascending order, int64.
        values_E: activation on each of them, above 0, float32.
    """

    number: int
    samples_E: np.ndarray
    values_E: np.ndarray

    def at(self, samples_M: np.ndarray) -> np.ndarray:
        """Return the activations on samples ``(M,)``, float32; 0 where the unit is silent."""
        if not len(self.samples_E):
            return np.zeros(len(samples_M), np.float32)
        places_M = np.searchsorted(self.samples_E, samples_M).clip(max=len(self.samples_E) - 1)
        return np.where(self.samples_E[places_M] == samples_M, self.values_E[places_M], 0)


@dataclass(frozen=True)
class Activity:
    """The entries above 0 of a model's code ``(N, K)``: files of a directory, by blocks of units.

    Args:
        directory: directory of the files.
        samples: number of samples N.
        units: number of units K.
    """

    directory: Path
    samples: int
    units: int

    @classmethod
    def record(
        cls, model: Any, samples: Any, directory: Path, advance: Callable[[int], None]
    ) -> "Activity":
        """Encode all samples ``(N, D)`` and write the entries.

        Args:
            model: model whose ``encode`` gives the code.
            samples: samples that the model takes.
            directory: an empty directory.
            advance: function that gets the number of samples after each batch.

        Raises:
            RunError: if an activation is NaN or infinite.
        """
        activity = cls(directory, len(samples), len(model.weight))
        held: list[np.ndarray] = []
        count = done = 0
        for codes_BK, _ in encoded(model, samples, BATCH):
            if not codes_BK.isfinite().all():
                last = done + len(codes_BK) - 1
                raise RunError(f"samples {done} to {last}: an activation is NaN or infinite")
            flat_E = positions(codes_BK > 0).numpy()
            entries_E = np.empty(len(flat_E), ENTRY)
            entries_E["sample"] = done + flat_E // activity.units
            entries_E["unit"] = flat_E % activity.units
            entries_E["value"] = codes_BK.cpu().numpy().reshape(-1)[flat_E]
            held.append(entries_E)
            count += len(entries_E)
            done += len(codes_BK)
            if count > BUFFERED:
                activity._write(held)
                held, count = [], 0
            advance(len(codes_BK))
        activity._write(held)
        return activity

    def _write(self, held: list[np.ndarray]) -> None:
        entries_E = np.concatenate(held) if held else np.empty(0, ENTRY)
        blocks_E = (entries_E["unit"] // BLOCK).astype(np.uint16)  # few bits sort in linear time
        entries_E = entries_E[blocks_E.argsort(kind="stable")]
        ends = np.bincount(blocks_E, minlength=self.blocks).cumsum()
        for block, part in enumerate(np.split(entries_E, ends[:-1])):
            with self._file(block).open("ab") as file:
                part.tofile(file)

    def _file(self, block: int) -> Path:
        return self.directory / f"{block}.bin"

    @property
    def blocks(self) -> int:
        """Number of blocks of units."""
        return -(-self.units // BLOCK)

    @property
    def entries(self) -> int:
        """Number of entries above 0."""
        files = map(self._file, range(self.blocks))
        return sum(file.stat().st_size for file in files) // ENTRY.itemsize

    def block(self, number: int) -> list[Unit]:
        """Return the units of a block."""
        entries_E = np.fromfile(self._file(number), ENTRY)
        own_E = (entries_E["unit"] - number * BLOCK).astype(np.uint8)
        entries_E = entries_E[own_E.argsort(kind="stable")]
        units = range(number * BLOCK, min((number + 1) * BLOCK, self.units))
        ends = np.searchsorted(entries_E["unit"], units, side="right")
        return [
            Unit(unit, part["sample"].astype(np.int64), part["value"])
            for unit, part in zip(units, np.split(entries_E, ends[:-1]), strict=True)
        ]

    def __iter__(self) -> Iterator[list[Unit]]:
        """Iterate over the blocks."""
        return map(self.block, range(self.blocks))
