"""What a person sees: one progress bar or a line now and then, and tables."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

LINES_WHEN_PIPED = 10

SHOWN = (
    "dead_units",
    "silent_units",
    "redundancy",
    "responsibility_entropy",
    "maximum_responsibility",
    "density",
    "reconstruction_mse",
    "transpose_reconstruction_mse",
    "probe_accuracy",
    "final_loss",
    "convergence_epoch",
    "parameters",
    "epochs",
    "train_seconds",
)


class EpochProgress(ProgressBar):
    """A bar over the epochs on a terminal; elsewhere a line for every tenth of them."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console()
        self._bar: Progress | None = None
        self._start = 0.0

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock, and the bar on a terminal."""
        self._start = time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("epochs  loss {task.fields[loss]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.add_task("", total=trainer.max_epochs, loss="...")
            self._bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Show the epochs that are done and the loss of the last of them."""
        if trainer.current_epoch:
            self._show(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Show the last epoch, and close the bar."""
        self._show(trainer)
        self._close()

    def on_exception(self, *_: Any) -> None:
        """Close the bar, so that the error stands below it."""
        self._close()

    def _show(self, trainer: pl.Trainer) -> None:
        done, total = trainer.current_epoch, trainer.max_epochs or 0
        loss = trainer.callback_metrics.get("train/loss")
        text = f"{float(loss):.5g}" if loss is not None else "..."
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, loss=text)
        elif done == total or done % max(1, total // LINES_WHEN_PIPED) == 0:
            log.info(
                "epoch %d/%d  loss %s  %.0f s", done, total, text, time.monotonic() - self._start
            )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextmanager
def working(message: str) -> Iterator[None]:
    """Show that something without steps of its own is under way: a spinner on a terminal."""
    console = Console()
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        log.info("%s ...", message)
        yield


def format_value(value: Any) -> str:
    """Write a metric for a person: four significant digits, a dash for what has no value."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.2f}" if 100 <= abs(value) < 1e5 else f"{value:.4g}"


def print_result(metrics: Mapping[str, Any], directory: str | None = None) -> None:
    """Print the table that ends a run, and where everything was written."""
    table = Table(title=f"seed {metrics['seed']}, {metrics['status']}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key in SHOWN:
        if metrics.get(key) is not None or key == "redundancy":
            table.add_row(key.replace("_", " "), format_value(metrics.get(key)))
    console = Console()
    console.print(table)
    if directory is not None:
        console.print(f"Written to {directory}", soft_wrap=True, highlight=False)


def print_rows(title: str, frame: "pd.DataFrame") -> None:
    """Print a table; cells that are no text are formatted."""
    console = Console()
    wide = console if console.is_terminal else Console(width=200)
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(frame):
        heading = str(column).replace("_", " ")
        table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
    for row in frame.values.tolist():
        table.add_row(*(cell if isinstance(cell, str) else format_value(cell) for cell in row))
    wide.print(table)
