"""Folders in which one process works at a time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from implicit_em.base import interruption
from implicit_em.base.errors import ConfigError
from implicit_em.base.files import writing

log = logging.getLogger(__name__)

LOCK = ".lock"
"""Name of the file that is locked, which stays in the folder."""


@contextmanager
def locked(folder: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold the lock of a folder until the block ends; the folder is made if it is missing.

    Args:
        folder: the folder.
        refusal: the message of the error if another process holds the lock; ``None`` to wait until
            that process ends.

    Raises:
        ConfigError: if another process holds the lock and a refusal is given.
        Interrupted: if a signal ends the wait.
        WriteError: if the folder cannot be made or written to.
    """
    lock = FileLock(folder / LOCK, thread_local=False)
    with writing(folder), suppress(Timeout):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    if not lock.is_locked:
        if refusal is not None:
            raise ConfigError(refusal)
        log.info("%s: another process is at work there: waiting for it", folder)
    while not lock.is_locked:
        interruption.stop_if_requested()
        with suppress(Timeout):
            lock.acquire(timeout=1)
    try:
        yield
    finally:
        lock.release()
