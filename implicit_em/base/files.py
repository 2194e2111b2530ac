"""Files that are written whole or not at all, and JSON that may be damaged."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from implicit_em.base.errors import DamagedError, WriteError, raising


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename it to ``path`` at the end.

    If the new file cannot be written, e.g. on a full disk, the old one stays and ``WriteError`` is
    raised.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise ``WriteError`` where the block fails to write what belongs to a path."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error


def half_written(path: Path) -> list[Path]:
    """Return the temporary files of ``path`` that killed processes have left."""
    name = re.compile(r"\.\d+-" + re.escape(path.name))
    return [found for found in path.parent.glob(".*") if name.fullmatch(found.name)]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; ``ValueError`` if the content holds NaN or infinity."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; ``DamagedError`` if ``write_json`` would not write it."""
    with raising(DamagedError, f"{path}: no JSON", ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    return content
