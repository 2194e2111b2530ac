"""Files that are written whole or not at all, and the reading of files that may be damaged."""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from implicit_em.base.errors import DamagedError, WriteError, raising


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename it to ``path`` at the end.

    If the new file cannot be written, e.g. on a full disk, the old one stays and ``WriteError`` is
    raised. The path may also name a new folder.
    """
    # Random: processes of two containers may share a disk and a process number.
    temporary = path.with_name(f".{secrets.token_hex(6)}-{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise ``WriteError``, which names a path, if the block cannot write there."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error


def half_written(path: Path) -> list[Path]:
    """Return the temporary files of ``path`` that killed processes have left."""
    name = re.compile(r"\.[0-9a-f]{12}-" + re.escape(path.name))
    return [found for found in path.parent.glob(".*") if name.fullmatch(found.name)]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; ``ValueError`` if the content holds NaN or infinity."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextmanager
def opened(path: Path, buffering: int = -1) -> Iterator[IO[bytes]]:
    """Open a file to read it.

    Args:
        path: path of the file.
        buffering: as of ``open``; 0 for a file of which nothing is read ahead.

    Raises:
        FileNotFoundError: if there is none.
        DamagedError: if it cannot be opened or read; the message names it.
    """
    try:
        with open(path, "rb", buffering) as file:
            yield file
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror or error}") from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; raise as ``opened`` does."""
    with opened(path) as file:
        return file.read()


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        FileNotFoundError: if there is none.
        DamagedError: if it cannot be read, or holds what ``write_json`` would not write.
    """
    content = read_bytes(path)
    with raising(DamagedError, f"{path}: no JSON", ValueError, RecursionError):
        value = json.loads(content.decode())
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value
