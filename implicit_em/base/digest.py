"""What files of arrays hold, told by a digest: the same wherever they lie."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

FORMATS = (".npy", ".npz", ".safetensors", ".pt")
"""How the names of files of arrays end."""


def names_a_file(name: Any) -> bool:
    """Return whether this is the name of a file of arrays, not that of an array, or none."""
    return isinstance(name, str | Path) and str(name).endswith(FORMATS)


def digest_of(*names: Any) -> str | None:
    """Return 16 hexadecimal digits over what files hold; ``None`` where one cannot be read.

    Nothing is raised: a configuration also composes where its files are not.

    Args:
        names: of files; what names none counts as it is.

    """
    try:
        content = [_digest_of_file(name) if names_a_file(name) else name for name in names]
    except (OSError, ValueError):
        return None
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:16]


def _digest_of_file(name: str | Path) -> str:
    path = Path(name).resolve()
    if not path.is_file():  # of a pipe the end might never come
        raise FileNotFoundError(path)
    state = path.stat()
    return _hash(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=1024)
def _hash(path: Path, state: tuple[int, ...]) -> str:
    """Read a file once a process for each of its states: a configuration is resolved many times."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
