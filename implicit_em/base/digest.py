"""Digests of files of arrays: they depend on the content, not on the path."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

BLOCK = 2**24
"""Number of bytes to read at a time."""
LONG = 4 * 10**9
"""Size in bytes above which the progress of a digest is shown: it then takes about ten seconds."""
FORMATS = (".npy", ".npz", ".safetensors", ".pt")


def names_a_file(name: Any) -> bool:
    """Return whether ``name`` is the path of a file of arrays; the name of an array is not."""
    return isinstance(name, str | Path) and str(name).endswith(FORMATS)


def digest_of(*names: Any) -> str | None:
    """Return 16 hexadecimal digits over the content of files; ``None`` if one cannot be read.

    Values that are no paths of files are hashed themselves. Nothing is raised: a configuration must
    also compose where its files are missing.
    """
    try:
        content = [digest_of_file(name) if names_a_file(name) else name for name in names]
    except (OSError, ValueError):
        return None
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:16]


def digest_of_store(path: Any) -> str | None:
    """Return 16 hexadecimal digits of a store of activations, or ``None`` where there is none.

    The manifest holds the digests of all files.
    """
    try:
        return digest_of_file(Path(path) / "manifest.json")[:16]
    except (OSError, TypeError):
        return None


def digest_of_file(name: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; ``OSError`` if it cannot be read."""
    path = Path(name).expanduser().resolve()
    if not path.is_file():  # reading a pipe might never end
        raise FileNotFoundError(path)
    return _hash(path, state_of(path))


def state_of(path: Path) -> tuple[int, ...]:
    """Return numbers that change with the content of a file."""
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


@lru_cache(maxsize=1024)
def _hash(path: Path, state: tuple[int, ...]) -> str:
    """Hash a file once for each of its states: a configuration is resolved many times."""
    digest, done, told = hashlib.sha256(), 0, 0
    size = path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            if size > LONG and 10 * done // size > told:
                told = 10 * done // size
                print(f"digest of {path.name}: {done / 1e9:.1f} of {size / 1e9:.1f} GB", flush=True)
    return digest.hexdigest()
