"""The directory of a study: whose it is, one process at a time, and what makes a trial."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from implicit_em.base.errors import ConfigError, one_line
from implicit_em.config.fingerprint import affects_results


def label(changes: Sequence[str]) -> str | None:
    """Return what makes a study a trial: the changes that affect results, if there are any."""
    found = deciding(changes)
    return f"TRIAL with {', '.join(found)}" if found else None


def deciding(changes: Sequence[str]) -> list[str]:
    """Return those of ``KEY=VALUE`` that affect results, in order."""
    return sorted(filter(affects_results, changes))


def read_note(note: Path) -> dict[str, Any]:
    """Return what a directory says of the study that it holds; empty where there is none.

    Raises:
        ConfigError: if that cannot be read.

    """
    try:
        content = json.loads(note.read_text()) if note.exists() else {}
    except (ValueError, OSError) as error:
        raise ConfigError(f"{note}: cannot be read: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{note}: cannot be read: not an object")
    return content


def refuse_directory(
    directory: Path, protocols: Path, there: Mapping[str, Any], trial: str | None
) -> None:
    """Refuse a directory that holds another study, or is not meant for a trial.

    Args:
        directory: that was named.
        protocols: the one that is for the protocol alone.
        there: the note in it.
        trial: label of the study that is to be written there.

    Raises:
        ConfigError: if it is refused.

    """
    if trial and directory.resolve() == protocols.resolve():
        raise ConfigError(
            f"{protocols} is for the protocol alone: name another --directory for a {trial}"
        )
    if there and there.get("trial") != trial:
        raise ConfigError(
            f"{directory}: holds {there.get('trial') or 'a study of the protocol'}, not "
            f"{trial or 'one of the protocol'}; name another directory"
        )


def refuse_arguments(workers: int | None, conf: Path, needed: str) -> None:
    """Refuse a number of workers that cannot be, and a folder that lacks a file of ours.

    Raises:
        ConfigError: naming it.

    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}: must be at least 1")
    if not (conf / needed).exists():
        raise ConfigError(f"conf={conf}: no {needed} there; run from the repository, or name it")


@contextmanager
def alone(directory: Path, study: str) -> Iterator[None]:
    """Make a directory, and keep it from other processes.

    Args:
        directory: of the study.
        study: what it is called in the message.

    Raises:
        ConfigError: if it cannot be made, or another process has it.

    """
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
