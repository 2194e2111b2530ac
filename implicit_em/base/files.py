"""Files that are either whole or not there, and those of others, which may be anything."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from implicit_em.base.errors import DamagedError, WriteError, one_line


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, and rename it when all went well.

    Raises:
        WriteError: if it cannot be written, e.g. as the disk is full; what was there stays.

    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error


def half_written(path: Path) -> list[Path]:
    """Return what ``whole`` has left of a file when its process was killed."""
    name = re.compile(r"\.\d+-" + re.escape(path.name))
    return [found for found in path.parent.glob(".*") if name.fullmatch(found.name)]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; NaN and infinity are refused, not written.

    Raises:
        ValueError: if the content holds one.

    """
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: if it cannot be opened.
        DamagedError: if it holds anything that ``write_json`` would not write.

    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: no JSON: {one_line(error)}") from error
    return content
