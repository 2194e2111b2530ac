"""Progress and results on the terminal."""

import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
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
MANY_EPOCHS = 10
"""Number of epochs from which on a log has no lines for steps."""
PAUSE = 2.0
"""Least number of seconds between two lines of ``RateProgress``, except the last."""


def _bar_on_a_terminal(
    what: str, count: bars.ProgressColumn, shown: bars.ProgressColumn, total: int, **fields: Any
) -> bars.Progress | None:
    """Start and return a bar with a single task; ``None`` if output is not a terminal."""
    console = Console()
    if not console.is_terminal:
        return None
    rest = bars.BarColumn(bar_width=None)  # what the others leave
    left = bars.TimeRemainingColumn(table_column=Column(no_wrap=True))
    columns = (bars.TextColumn(what), rest, count, shown, left)
    bar = bars.Progress(*columns, console=console)
    bar.add_task("", total=total, **fields)
    bar.start()
    return bar


class EpochProgress(RunLogger):
    """Shows a bar over the epochs on a terminal; elsewhere a line after every tenth of them.

    If steps are logged, the bar counts these, and a run of few epochs also has a line after each
    tenth of its steps. This is a logger because a callback would cost time at every step. If
    several ``runs`` log here, ``epochs`` is the total number of their epochs.
    """

    def __init__(self, epochs: int, runs: int = 1) -> None:
        super().__init__()
        self.epochs = epochs
        self.runs = runs
        self._done = self._tenths = 0
        self._counts_steps = False
        self._lock = threading.Lock()
        self._start = time.monotonic()
        what = "training" if runs == 1 else f"training {runs} runs"
        shown = bars.TextColumn("{task.fields[text]}")
        count = bars.MofNCompleteColumn(table_column=Column(no_wrap=True))
        self._bar = _bar_on_a_terminal(what, count, shown, epochs, text="epochs")

    def skip(self, epochs: int) -> None:
        """Count epochs that an earlier part of the run has trained."""
        with self._lock:
            self._done += epochs

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Show the number of finished epochs; for a single run, also the loss."""
        if "train/loss" not in metrics:
            return
        loss = f"  loss {metrics['train/loss']:.5g}" if self.runs == 1 else ""
        with self._lock:
            self._done += 1
            done = self._done
        if self._bar is not None:
            if not self._counts_steps:
                self._bar.update(self._bar.task_ids[0], completed=done, text=f"epochs{loss}")
        elif done == self.epochs or done % max(1, self.epochs // 10) == 0:
            seconds = f"{time.monotonic() - self._start:.0f} s"
            if self.runs == 1:
                log.info("epoch %d/%d%s  %s", done, self.epochs, loss, seconds)
            else:  # belongs to no run's log; written at once, because other threads print, too
                line = f"{done} of {self.epochs} epochs of {self.runs} runs  {seconds}\n"
                print(line, end="", flush=True)

    @rank_zero_only
    def show_step(
        self, done: int, steps: int, values: Mapping[str, float], beside: str = ""
    ) -> None:
        """Show the last values that were logged of a single run, and how many steps are done.

        ``beside`` stands behind the values: what the data say of their own progress.
        """
        found = {key: values[key] for key in SHOWN if not math.isnan(values.get(key, math.nan))}
        parts = [f"{SHOWN[key]} {value:.4g}" for key, value in found.items()]
        shown = "".join(f"  {part}" for part in (*parts, beside) if part)
        tenths = 10 * done // steps
        self._counts_steps = True
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, total=steps, completed=done, text=f"steps{shown}")
        elif found and tenths > self._tenths:
            self._tenths = tenths
            if self.epochs < MANY_EPOCHS and done % max(1, steps // self.epochs):
                # The end of an epoch has a line of its own.
                seconds = time.monotonic() - self._start
                log.info("step %d/%d%s  %.0f s", done, steps, shown, seconds)

    def finalize(self, status: str) -> None:
        """Close the bar of a single run."""
        if self.runs == 1:
            self.close()

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class RateProgress(AbstractContextManager[Any]):
    """Shows how much of a long work is done, how fast, and the time that is left.

    It is a bar on a terminal, elsewhere a line after each tenth, at most one in two seconds.

    Args:
        what: what is done, such as ``harvesting``.
        total: number of things.
        things: their name, such as ``tokens``.
    """

    def __init__(self, what: str, total: int, things: str) -> None:
        self.what, self.total, self.things = what, total, things
        self._done = self._tenths = 0
        self._start = self._said = time.monotonic()
        shown = bars.TextColumn("{task.fields[rate]}")
        self._bar = _bar_on_a_terminal(what, bars.TaskProgressColumn(), shown, total, rate="")

    def advance(self, count: int) -> None:
        """Count what was done."""
        self._done += count
        now = time.monotonic()
        rate = self._done / max(now - self._start, 1e-9)
        if self._bar is not None:
            shown = f"{rate:,.0f} {self.things}/s"
            self._bar.update(self._bar.task_ids[0], completed=self._done, rate=shown)
            return
        tenths, ended = 10 * self._done // self.total, self._done >= self.total
        if tenths > self._tenths and (ended or now > self._said + PAUSE):
            self._tenths, self._said = tenths, now
            left = f"{rate:.0f} {self.things}/s  {(self.total - self._done) / rate:.0f} s left"
            log.info("%s", f"{self.what}: {self._done:,} of {self.total:,} {self.things}  {left}")

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def working(message: str, logged: bool = True) -> Iterator[None]:
    """Show a message with a spinner while work without steps goes on.

    Elsewhere than on a terminal it is a line of the log, if it is to be ``logged``.
    """
    console = Console()
    if console.is_terminal and threading.current_thread() is threading.main_thread():
        with console.status(message):
            yield
    else:
        if logged:
            log.info("%s ...", message)
        yield


def print_result(
    metrics: Mapping[str, Any], directory: str | None = None, inside: Iterable[str] = ()
) -> None:
    """Print the table of a run's results, and the directory that holds them; see ``in_table``."""
    named = f"seed {metrics['seed']}" if "seed" in metrics else metrics["model"]
    console = Console()
    console.print(f"{named}, {metrics['status']}", soft_wrap=True, highlight=False, markup=False)
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key in in_table(metrics, inside=inside):
        if metrics.get(key) is not None or key == "redundancy":
            table.add_row(key.replace("_", " "), format_value(metrics.get(key)))
    console.print(table)
    if directory is not None:
        console.print(f"Written to {directory}", soft_wrap=True, highlight=False)
