"""The progress of a harvest: a bar on a terminal, elsewhere a line after each tenth."""

import logging
import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)


class TokenProgress:
    """Shows how many of the tokens are done, tokens a second, and the time that is left.

    Args:
        tokens: number of tokens of this harvest.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._done = self._tenths = 0
        self._start = time.monotonic()
        console = Console()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("harvesting"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.add_task("", total=tokens, rate="")
            self._bar.start()

    def advance(self, tokens: int) -> None:
        """Count tokens that a pass has read."""
        self._done += tokens
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        if self._bar is not None:
            shown = f"{rate:,.0f} tokens/s"
            self._bar.update(self._bar.task_ids[0], completed=self._done, rate=shown)
        elif (tenths := 10 * self._done // self.tokens) > self._tenths:
            self._tenths = tenths
            left = (self.tokens - self._done) / rate
            log.info(
                "%s of %s tokens  %.0f tokens/s  %.0f s left",
                f"{self._done:,}",
                f"{self.tokens:,}",
                rate,
                left,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
