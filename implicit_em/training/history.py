"""The history of a run, with one row for each epoch, as a Lightning logger; and tables in files."""

import csv
import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from implicit_em.base.errors import WriteError
from implicit_em.base.files import read_bytes, whole

log = logging.getLogger(__name__)


class RunLogger(Logger):
    """Base of this project's loggers, which do not log the settings: ``.hydra`` holds them."""

    name = version = ""  # Lightning then puts checkpoints directly into the run directory

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


class Table:
    """Rows of values, each with a whole number, and the CSV file that holds them.

    A cell is empty if its value was not measured or cannot be computed.

    Args:
        path: path of the file.
        index: name of the numbers, which are the first column.
        consecutive: whether the numbers are 1, 2, 3 and so on; otherwise they only rise.
    """

    def __init__(self, path: Path, index: str, consecutive: bool = False) -> None:
        self.path = path
        self.index = index
        self.consecutive = consecutive
        self.rows: dict[int, dict[str, float | None]] = {}

    def add(self, number: int, values: Mapping[str, float | None]) -> None:
        """Add values to a row; NaN leaves a cell empty."""
        row = {key: None if _is_nan(value) else value for key, value in values.items()}
        self.rows.setdefault(number, {}).update(row)

    def read(self) -> None:
        """Read the rows before any damaged one."""
        self.rows = {}
        if self.path.exists():
            try:
                self._read_rows()
            except (ValueError, TypeError, KeyError, csv.Error):
                last = next(reversed(self.rows), 0)
                log.warning("%s is damaged after %s %d: cut there", self.path, self.index, last)

    def _read_rows(self) -> None:
        rows, _, half_a_row = read_bytes(self.path).decode().rpartition("\n")
        last = 0
        for row in csv.DictReader(rows.splitlines(), strict=True):
            number = int(row.pop(self.index))
            # A row of the wrong length holds a list or None, and its number cannot be read.
            values = {key: _number(value) for key, value in row.items()}
            follows = number == last + 1 if self.consecutive else number > last
            if not follows or any(map(_is_nan, values.values())):
                raise ValueError("unexpected row")
            self.rows[number], last = values, number
        if half_a_row:
            raise ValueError("no end of line")

    def forget_after(self, last: int) -> None:
        """Drop the rows of later numbers."""
        self.rows = {number: row for number, row in self.rows.items() if number <= last}

    @rank_zero_only
    def write(self) -> None:
        """Write all rows."""
        columns = dict.fromkeys(key for row in self.rows.values() for key in row)
        with whole(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, [self.index, *columns], lineterminator="\n")
            writer.writeheader()
            writer.writerows({self.index: n, **row} for n, row in sorted(self.rows.items()))

    def column(self, key: str) -> list[float]:
        """Return the values of a column in the order of the rows, without empty cells."""
        values = (row.get(key) for _, row in sorted(self.rows.items()))
        return [value for value in values if value is not None]


class HistoryLogger(RunLogger, Table):
    """Writes ``history.csv``: all values that are logged in an epoch make one row.

    Epochs count from 1. The file is written when a checkpoint was saved, and at the end.
    """

    def __init__(self, path: Path) -> None:
        RunLogger.__init__(self)
        Table.__init__(self, path, "epoch", consecutive=True)
        self._written = 0  # epochs that the file holds
        self._is_due = False

    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values to the row of their epoch; values without an epoch are dropped."""
        if "epoch" in metrics:
            values = {key: value for key, value in metrics.items() if key != "epoch"}
            self.add(int(metrics["epoch"]) + 1, values)

    def restore(self) -> int:
        """Read the rows before any damaged one, and return the number of epochs with a loss."""
        self.read()
        return len(self.column("train/loss"))

    def precede_checkpoint(self) -> None:
        """Write earlier epochs that the file lacks; the current one follows when it has ended."""
        if len(self.column("train/loss")) > self._written:
            self.write()
        self._is_due = True

    def save(self) -> None:
        """Write all rows if a checkpoint was saved; Lightning calls this after each epoch."""
        if self._is_due:
            self.write()
            self._is_due = False

    @rank_zero_only
    def write(self) -> None:
        """Write all rows."""
        self._written = len(self.column("train/loss"))
        super().write()

    def finalize(self, status: str) -> None:
        """Write all rows; if that fails, a failed run still raises its own error."""
        with suppress(WriteError) if status == "failed" else nullcontext():
            self.write()


def _number(text: str) -> float | None:
    """Return the number of a cell, whole if it was written so; ``None`` for an empty cell."""
    if text == "":
        return None
    value = float(text)
    return int(text) if text.isdecimal() else value


def _is_nan(value: float | None) -> bool:
    return value is not None and math.isnan(value)
