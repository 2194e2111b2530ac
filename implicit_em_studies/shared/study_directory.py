"""The directory of a study: which study it holds, and one process at a time."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from implicit_em.base.errors import ConfigError, one_line
from implicit_em_studies.shared.configuration import folder_of


def read_note(note: Path) -> dict[str, Any]:
    """Return what a directory's note says of its study; empty if there is no note."""
    try:
        content = json.loads(note.read_text()) if note.exists() else {}
    except (ValueError, OSError) as error:
        raise ConfigError(f"{note}: cannot be read: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{note}: cannot be read: not an object")
    return content


def refuse_directory(
    directory: Path, protocols: Path, note: Mapping[str, Any], trial: str | None
) -> None:
    """Refuse a file, and a directory of another study; a trial may not write to ``protocols``."""
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"--directory {directory}: is a file")
    if trial and directory.resolve() == protocols.resolve():
        raise ConfigError(
            f"{protocols} is for the protocol alone: name another --directory for a {trial}"
        )
    if note and note.get("trial") != trial:
        raise ConfigError(
            f"{directory}: holds {note.get('trial') or 'a study of the protocol'}, not "
            f"{trial or 'one of the protocol'}; name another directory"
        )


def refuse_arguments(workers: int | None, conf: Path, needed: str) -> None:
    """Refuse an impossible number of workers, and a configuration folder without a needed file."""
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}: must be at least 1")
    if not any((folder / needed).exists() for folder in (conf, folder_of(conf))):
        raise ConfigError(f"conf={conf}: no {needed} there; name the folder of the configuration")


@contextmanager
def alone(directory: Path, study: str) -> Iterator[None]:
    """Make a directory and lock it; refuse one that another process has locked."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be made: {one_line(error)}") from error
    try:
        lock = FileLock(directory / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise ConfigError(f"{directory}: another {study} is running there") from error
    with lock:
        yield
