"""Folders on the Hugging Face hub: fetched by their address, and written."""

import glob
import logging
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import Template

from implicit_em.base.errors import ConfigError

PREFIX = "hub:"
FORM = f"{PREFIX}OWNER/NAME[@REVISION][:FOLDER]"
ADDRESS = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:]+))?(:(?P<folder>[^/].*))?")

CARD, README = Path(__file__).with_name("card.md.j2"), "README.md"
"""Template of a model card, and the card's name on the hub."""


def is_address(path: str | Path) -> bool:
    """Return whether a path is an address on the hub."""
    return str(path).startswith(PREFIX)


def fetch(address: str, names: Sequence[str]) -> tuple[str, Path]:
    """Return the address of a folder with the commit as its revision, and the folder.

    Its files come from the hub's cache, or are downloaded into it. Without a network, or with
    ``HF_HUB_OFFLINE``, the cache alone is read.

    Args:
        address: ``hub:OWNER/NAME[@REVISION][:FOLDER]``.
        names: names of the files that are wanted; files that the folder lacks are left out.

    Raises:
        ConfigError: if it is no address, or if there is no such repository or revision, or no
            network.
    """
    found = ADDRESS.fullmatch(address)
    if found is None or ".." in re.split("[:/]", address):
        raise ConfigError(f"{address}: write {FORM}")
    repo, folder = found["repo"], (found["folder"] or "").rstrip("/")
    patterns = [glob.escape(str(Path(folder, name))) for name in names]
    # It would warn that no file matches, which the caller's error says.
    logging.getLogger("huggingface_hub._snapshot_download").setLevel(logging.ERROR)
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


def check(repository: str) -> None:
    """Raise ``ConfigError`` if this is no name, or without the hub's client or a token."""
    if not ADDRESS.fullmatch(f"{PREFIX}{repository}") or {":", "@"} & set(repository):
        raise ConfigError(f"push={repository}: write OWNER/NAME")
    with _asking("push") as client:
        token = client.get_token()
    if token is None:
        raise ConfigError("push: no token of the hub; set HF_TOKEN, or run hf auth login")


def create(repository: str) -> None:
    """Create a repository, if there is none; raise ``ConfigError`` if the hub refuses."""
    with _asking(f"push={repository}") as client:
        client.HfApi().create_repo(repository, exist_ok=True)


def model_card(folder: str, values: Mapping[str, Any], repository: str | None = None) -> str:
    """Return the card of a model that SAELens loads: from a repository, or from this folder."""
    template = Template(CARD.read_text("utf-8"), keep_trailing_newline=True)
    return template.render(repository=repository, folder=folder, **values)


def push(repository: str, folder: str, files: Mapping[str, Path], card: Mapping[str, Any]) -> str:
    """Write a folder of a repository, with a model card, in one commit; return its address.

    The card is also written for the repository, unless the repository has one.

    Args:
        repository: ``OWNER/NAME``.
        folder: the folder in it.
        files: files by their names there.
        card: values of the card's template; see ``model_card``.

    Raises:
        ConfigError: if the hub refuses.
    """
    with _asking(f"push={repository}") as client:
        api, add = client.HfApi(), client.CommitOperationAdd
        text = model_card(folder, card, repository).encode()
        operations = [add(f"{folder}/{name}", path) for name, path in files.items()]
        operations.append(add(f"{folder}/{README}", text))
        if not api.file_exists(repository, README):
            operations.append(add(README, text))
        api.create_commit(repository, operations, commit_message=f"Write {folder}")
    return f"{PREFIX}{repository}:{folder}"
