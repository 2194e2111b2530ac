"""Folders on the Hugging Face hub: fetched by their address, and written."""

import glob
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from implicit_em.base.errors import ConfigError

PREFIX = "hub:"
ADDRESS = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:]+))?(:(?P<folder>[^/].*))?")


def is_address(path: str | Path) -> bool:
    """Return whether a path is an address on the hub."""
    return str(path).startswith(PREFIX)


def fetch(address: str, names: Sequence[str]) -> tuple[str, Path]:
    """Return the address of a folder with the commit as its revision, and the folder.

    Its files come from the hub's cache, or are downloaded into it. Without a network, or with
    ``HF_HUB_OFFLINE``, the cache alone is read.

    Args:
        address: ``hub:OWNER/NAME[@REVISION][:FOLDER]``.
        names: names of the files that are wanted; those that the folder lacks are left out.

    Raises:
        ConfigError: if the address is none, or there is no such repository, revision or network.
    """
    found = ADDRESS.fullmatch(address)
    if found is None or ".." in re.split("[:/]", address):
        raise ConfigError(f"{address}: write hub:OWNER/NAME[@REVISION][:FOLDER]")
    repo, folder = found["repo"], (found["folder"] or "").rstrip("/")
    patterns = [glob.escape(str(Path(folder, name))) for name in names]
    with _asking(address) as client:
        options = {"revision": found["revision"], "allow_patterns": patterns}
        snapshot = Path(client.snapshot_download(repo, **options))
    commit = f"{PREFIX}{repo}@{snapshot.name}"
    return f"{commit}:{folder}" if folder else commit, snapshot / folder


@contextmanager
def _asking(subject: str) -> Iterator[Any]:
    """Yield the hub's client; raise ``ConfigError`` if it is missing, or for what it raises."""
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        line = f'{subject}: huggingface_hub is missing; pip install -e ".[hub]"'
        raise ConfigError(line) from error
    try:
        yield huggingface_hub
    except Exception as error:  # of the name, the network, the server, or the disk
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise ConfigError(f"{subject}: {reason}") from error
