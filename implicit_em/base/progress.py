"""Work that is shown while it goes on: on a terminal by a bar or a spinner, elsewhere by lines."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

log = logging.getLogger(__name__)


class Progress(AbstractContextManager[Any]):
    """Shows how much of a long work is done: a bar on a terminal, elsewhere a line for each tenth.

    Args:
        what: what is done, such as ``harvesting``.
        total: number of things.
        things: their name, such as ``tokens``.
        say: function that writes a line; by default to the log.
    """

    def __init__(
        self, what: str, total: int, things: str, say: Callable[[str], None] = log.info
    ) -> None:
        from rich import progress as bars  # here, because --help needs none
        from rich.console import Console
        from rich.table import Column

        self.what, self.total, self.things, self.say = what, total, things, say
        self._done = self._skipped = self._tenths = 0
        self._start = time.monotonic()
        self._bar: bars.Progress | None = None
        if (console := Console()).is_terminal:
            self._bar = bars.Progress(
                bars.TextColumn(what),
                bars.BarColumn(bar_width=None),  # what the other columns leave
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
        """Show how many of other things are done, such as steps in place of epochs."""
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


@contextmanager
def working(message: str, say: Callable[[str], object] | None = log.info) -> Iterator[None]:
    """Show a message with a spinner while work without steps goes on.

    Args:
        message: what is done.
        say: function that writes a line elsewhere than on a terminal; ``None`` for no line.
    """
    from rich.console import Console  # here, because --help needs none

    console = Console()
    if console.is_terminal and threading.current_thread() is threading.main_thread():
        with console.status(message):
            yield
    else:
        if say is not None:
            say(f"{message} ...")
        yield
