"""Progress and results on the terminal."""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from pytorch_lightning.utilities import rank_zero_only
from rich import progress as bars
from rich.console import Console
from rich.table import Column, Table

from implicit_em.base.tables import format_value
from implicit_em.training.history import RunLogger
from implicit_em.training.results import in_table

log = logging.getLogger(__name__)

SHOWN = {"loss": "loss", "l0": "L0", "fvu": "FVU"}
"""Values of a step that are shown, and what they are called."""


class Progress(AbstractContextManager[Any]):
    """Shows how much of a long work is done: a bar on a terminal, elsewhere a line a tenth.

    Args:
        what: what is done, such as ``harvesting``.
        total: number of things.
        things: their name, such as ``tokens``.
        say: function that writes a line; by default to the log.
    """

    def __init__(
        self, what: str, total: int, things: str, say: Callable[[str], None] = log.info
    ) -> None:
        self.what, self.total, self.things, self.say = what, total, things, say
        self._done = self._skipped = self._tenths = 0
        self._start = time.monotonic()
        self._bar: bars.Progress | None = None
        if (console := Console()).is_terminal:
            self._bar = bars.Progress(
                bars.TextColumn(what),
                bars.BarColumn(bar_width=None),  # what the others leave
                bars.MofNCompleteColumn(table_column=Column(no_wrap=True)),
                bars.TextColumn("{task.fields[text]}"),
                bars.TimeRemainingColumn(table_column=Column(no_wrap=True)),
                console=console,
            )
            self._bar.add_task("", total=total, text=things)
            self._bar.start()

    def skip(self, count: int) -> None:
        """Count what was done before."""
        self._done += count
        self._skipped += count
        self._tenths = 10 * self._done // max(1, self.total)

    def advance(self, count: int, text: str = "") -> None:
        """Count what was done; the text stands behind the numbers, by default the rate."""
        self._done += count
        rate = (self._done - self._skipped) / max(time.monotonic() - self._start, 1e-9)
        self._show(text or f"{rate:,.1f} {self.things}/s")

    def show_of(self, done: int, total: int, things: str, text: str) -> None:
        """Show that so many of other things are done, such as steps in place of epochs."""
        if things != self.things:
            self.things, self.total, self._skipped = things, total, done
            self._tenths = 10 * done // total
        self._done = done
        self._show(text)

    def _show(self, text: str) -> None:
        if self._bar is not None:
            shown = f"{self.things}  {text}"
            task = self._bar.task_ids[0]
            self._bar.update(task, total=self.total, completed=self._done, text=shown)
        elif (tenths := 10 * self._done // self.total) > self._tenths:
            self._tenths = tenths
            seconds = time.monotonic() - self._start
            left = seconds / (self._done - self._skipped) * (self.total - self._done)
            count = f"{self._done:,} of {self.total:,} {self.things}"
            self.say(f"{self.what}: {count}  {text}  {left:.0f} s left")

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __exit__(self, *_: Any) -> None:
        self.close()


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


def print_result(metrics: Mapping[str, Any], directory: str | None = None) -> None:
    """Print the table of a run's results, and the directory that holds them; see ``in_table``."""
    named = f"seed {metrics['seed']}" if "seed" in metrics else metrics["model"]
    console = Console()
    console.print(f"{named}, {metrics['status']}", soft_wrap=True, highlight=False, markup=False)
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key in in_table(metrics):
        if metrics.get(key) is not None or key == "redundancy":
            table.add_row(key.replace("_", " "), format_value(metrics.get(key)))
    console.print(table)
    if directory is not None:
        console.print(f"Written to {directory}", soft_wrap=True, highlight=False)
