"""The history of a run, with one row for each epoch, as a Lightning logger."""

import csv
import logging
import math
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from implicit_em.base.errors import WriteError
from implicit_em.base.files import whole

log = logging.getLogger(__name__)


class RunLogger(Logger):
    """Base of this project's loggers, which do not log the settings: ``.hydra`` holds them."""

    name = version = ""  # Lightning then puts checkpoints directly into the run directory

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


class HistoryLogger(RunLogger):
    """Writes ``history.csv``: all values that are logged in an epoch make one row.

    Epochs count from 1. A cell is empty if its value was not measured or cannot be computed. The
    file is written when a checkpoint was saved, and at the end.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, float | None]] = {}
        self._written = 0  # epochs that the file holds
        self._is_due = False

    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values to the row of their epoch; values without an epoch are dropped."""
        if "epoch" not in metrics:
            return
        values = {k: None if _is_nan(v) else v for k, v in metrics.items() if k != "epoch"}
        self.rows.setdefault(int(metrics["epoch"]) + 1, {}).update(values)

    def restore(self) -> int:
        """Read the rows before any damaged one, and return the number of epochs with a loss."""
        self.rows = {}
        if self.path.exists():
            try:
                self._read_rows()
            except (ValueError, TypeError, KeyError, csv.Error):
                log.warning("%s is damaged after epoch %d: cut there", self.path, len(self.rows))
        return len(self.column("train/loss"))

    def _read_rows(self) -> None:
        rows, _, half_a_row = self.path.read_text(encoding="utf-8").rpartition("\n")
        for row in csv.DictReader(rows.splitlines(), strict=True):
            epoch = int(row.pop("epoch"))
            # A row of the wrong length holds a list or None, and float() raises.
            values = {key: float(value) if value != "" else None for key, value in row.items()}
            if epoch != len(self.rows) + 1 or any(map(_is_nan, values.values())):
                raise ValueError("unexpected row")
            self.rows[epoch] = values
        if half_a_row:
            raise ValueError("no end of line")

    def forget_after(self, epochs: int) -> None:
        """Drop the rows of later epochs."""
        self.rows = {epoch: row for epoch, row in self.rows.items() if epoch <= epochs}

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
        columns = dict.fromkeys(key for row in self.rows.values() for key in row)
        with whole(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *columns], lineterminator="\n")
            writer.writeheader()
            writer.writerows({"epoch": epoch, **row} for epoch, row in sorted(self.rows.items()))

    def finalize(self, status: str) -> None:
        """Write all rows; if that fails, a failed run still raises its own error."""
        with suppress(WriteError) if status == "failed" else nullcontext():
            self.write()

    def column(self, key: str) -> list[float]:
        """Return the values of a column in the order of the epochs, without empty cells."""
        values = (row.get(key) for _, row in sorted(self.rows.items()))
        return [value for value in values if value is not None]


def _is_nan(value: float | None) -> bool:
    return value is not None and math.isnan(value)
