"""A run's own loggers: its history, one row for each epoch, and its progress; tables in files."""

import csv
import logging
import math
import threading
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from implicit_em.base.errors import WriteError
from implicit_em.base.files import read_bytes, whole
from implicit_em.base.progress import Progress

log = logging.getLogger(__name__)

SHOWN = {"loss": "loss", "l0": "L0", "fvu": "FVU"}
"""Values of a step that are shown, and what they are called."""


class RunLogger(Logger):
    """Base of this project's loggers, which do not log the settings: ``.hydra`` holds them."""

    name = version = ""  # Lightning then puts checkpoints directly into the run directory

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


class Table:
    """Rows of values, each with an epoch or step, and the CSV file that holds the rows.

    A cell is empty if its value was not measured or cannot be computed.

    Args:
        path: path of the file.
        index: name of the first column, which holds the epochs or steps.
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


class EpochProgress(RunLogger):
    """Shows how many epochs are done or, if a single run logs steps, how many steps.

    This is a logger because a callback would cost time at every step. If several ``runs`` log here,
    ``epochs`` is the total number of their epochs.
    """

    def __init__(self, epochs: int, runs: int = 1) -> None:
        super().__init__()
        self.runs = runs
        what, say = "training", log.info
        if runs > 1:  # belongs to no run's log; written at once, because other threads print, too
            what, say = f"training {runs} runs", partial(print, flush=True)
        self._progress = Progress(what, epochs, "epochs", say)
        self._lock = threading.Lock()

    def skip(self, epochs: int) -> None:
        """Count epochs that an earlier part of the run has trained."""
        with self._lock:
            self._progress.skip(epochs)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Show the number of finished epochs; for a single run, also the loss."""
        if "train/loss" in metrics and self._progress.things == "epochs":
            with self._lock:
                loss = f"loss {metrics['train/loss']:.5g}" if self.runs == 1 else ""
                self._progress.advance(1, loss)

    @rank_zero_only
    def show_step(
        self, done: int, steps: int, values: Mapping[str, float], beside: str = ""
    ) -> None:
        """Show the last values that were logged of a single run, and how many steps are done.

        ``beside`` stands behind the values: what the data say of their own progress.
        """
        found = {key: values[key] for key in SHOWN if not math.isnan(values.get(key, math.nan))}
        parts = [f"{SHOWN[key]} {value:.4g}" for key, value in found.items()]
        self._progress.show_of(done, steps, "steps", "  ".join([*parts, *filter(None, [beside])]))

    def finalize(self, status: str) -> None:
        """Close the bar of a single run."""
        if self.runs == 1:
            self.close()

    def close(self) -> None:
        """Close the bar."""
        self._progress.close()


def _number(text: str) -> float | None:
    """Return the number of a cell, an int if it has no point; ``None`` for an empty cell."""
    if text == "":
        return None
    value = float(text)
    return int(text) if text.isdecimal() else value


def _is_nan(value: float | None) -> bool:
    return value is not None and math.isnan(value)
