"""Signals that ask runs to end: they finish what they are doing, save, and stop.

A cluster's warnings come as SIGTERM or SIGUSR2, a person's as Ctrl-C. The first one is noted, and a
run asks for it where it can stop; a second Ctrl-C ends the process at once.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from implicit_em.base.errors import Interrupted

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

_before: dict[signal.Signals, Any] = {}
"""Handlers in whose place ours are, while there are any."""
_received: list[signal.Signals] = []


@contextmanager
def listening() -> Iterator[None]:
    """Note signals while runs train, where this is the main thread and nobody listens yet.

    After SIGUSR2 the handler that was there before is called at the end, once everything is saved:
    submitit's puts the job into the queue again.

    Raises:
        Interrupted: at the end, if a signal came; also one that was too late for what ran, as
            others may be about to start.

    """
    if _before or threading.current_thread() is not threading.main_thread():
        yield
        return
    _before.update((number, signal.getsignal(number)) for number in SIGNALS)
    _received.clear()
    listen()
    try:
        try:
            yield
        finally:
            stop_if_requested()
    except Interrupted as interrupted:
        requeue = _before[signal.SIGUSR2]
        if interrupted.signal == signal.SIGUSR2 and callable(requeue):
            requeue(signal.SIGUSR2, None)
        raise
    finally:
        for number, handler in _before.items():
            signal.signal(number, handler)
        _before.clear()


@contextmanager
def ending() -> Iterator[None]:
    """Let the same signals raise an exception wherever no run listens, as Ctrl-C does.

    Raises:
        Interrupted: at SIGTERM or SIGUSR2.

    """
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen() -> None:
    """Put our handlers in place again, where Lightning has put its own."""
    if _before and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _note)


def received() -> signal.Signals | None:
    """Return the signal that has asked the runs of this process to end."""
    return _received[0] if _before and _received else None


def stop_if_requested() -> None:
    """End the run, where a signal has asked for it.

    Raises:
        Interrupted: if one has.

    """
    if number := received():
        raise Interrupted(number)


def _end(number: int, frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number))


def _note(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _received:
        os._exit(128 + number)
    _received.append(signal.Signals(number))
    if len(_received) == 1:
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        log.warning("%s: saving, then stopping%s", signal.Signals(number).name, again)
