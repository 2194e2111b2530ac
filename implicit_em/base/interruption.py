"""Signals that ask runs to end: a run finishes its step, saves, and stops.

A cluster sends SIGTERM or SIGUSR2, a person presses Ctrl-C. The handler only notes the first
signal, and the run looks for it where it can stop. A second Ctrl-C ends the process at once.
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
"""The handlers that ours replace; empty while nobody listens."""
_received: list[signal.Signals] = []


@contextmanager
def listening() -> Iterator[None]:
    """Note signals while runs train; do nothing outside the main thread, or if nested.

    If a signal came, ``Interrupted`` is raised at the end, even if the run has ended by then: other
    runs may follow. After SIGUSR2, once everything is saved, the earlier handler is called first:
    submitit's handler puts the job back into the queue.
    """
    if _before or threading.current_thread() is not threading.main_thread():
        yield
        return
    _before.update((number, signal.getsignal(number)) for number in SIGNALS)
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
        _received.clear()


@contextmanager
def ending() -> Iterator[None]:
    """Let SIGTERM and SIGUSR2 raise ``Interrupted`` while no run listens, as Ctrl-C does."""
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen() -> None:
    """Install our handlers, also in place of handlers that Lightning has installed since."""
    if _before and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _note)


def received() -> signal.Signals | None:
    """Return the signal that has asked the runs of this process to end, if any."""
    return _received[0] if _received else None


def stop_if_requested() -> None:
    """Raise ``Interrupted`` if a signal has asked the run to end."""
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
