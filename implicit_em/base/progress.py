"""Work that is shown on a terminal while it goes on."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


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
