"""Digests of files of arrays: they depend on the content, not on the path."""

import hashlib
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

from implicit_em.base.files import opened
from implicit_em.base.progress import working

LONG = 4 * 10**9
"""Size in bytes above which it is said that a digest is made: that takes about ten seconds."""
FORMATS = (".npy", ".npz", ".safetensors", ".pt")
UNREADABLE = (OSError, TypeError, ValueError, RuntimeError)
"""Errors of a path that names no file; ``RuntimeError`` says that no home is known."""


def names_a_file(name: Any) -> bool:
    """Return whether ``name`` is the path of a file of arrays; the name of an array is not."""
    return isinstance(name, str | Path) and str(name).endswith(FORMATS)


def digest_of(*names: Any) -> str | None:
    """Return 16 hexadecimal digits over the content of files; ``None`` if one cannot be read.

    Values that are no paths of files are hashed themselves. Nothing is raised: a configuration must
    also compose where its files are missing.
    """
    try:
        return digest_over([digest_of_file(name) if names_a_file(name) else name for name in names])
    except UNREADABLE:
        return None


def digest_over(content: list[Any]) -> str:
    """Return 16 hexadecimal digits over digests of files and other values."""
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:16]


def digest_of_file(name: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; raise as ``files.opened`` does."""
    with opened(Path(name).expanduser(), buffering=0) as file:
        return digest_of_open(file)


State = tuple[int, ...]
"""Device, inode, size, and times of the last change of a file and of its entry."""


def state_of(file: Path | int) -> State:
    """Return numbers that change with the content of a file, given its path or descriptor."""
    state = os.stat(file)
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


_digests: dict[State, str] = {}


def digest_of_open(file: IO[bytes]) -> str:
    """Return the SHA-256 of an open file.

    It is hashed once for each of its states, because a configuration is resolved many times.
    """
    state = state_of(file.fileno())
    if state not in _digests:
        _digests[state] = _hash(file)
    return _digests[state]


def _hash(file: Any) -> str:
    name, size = Path(file.name).name, os.fstat(file.fileno()).st_size
    file.seek(0)
    shown = f"digest of {name}: {size / 1e9:.1f} GB"
    with working(shown, print) if size > LONG else nullcontext():
        return hashlib.file_digest(file, "sha256").hexdigest()
