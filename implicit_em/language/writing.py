"""The store while it is written; several processes may write its shards."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from implicit_em.base.digest import digest_of_file
from implicit_em.base.errors import ConfigError
from implicit_em.base.files import half_written, write_json
from implicit_em.base.locking import locked
from implicit_em.base.settings import differences, listed
from implicit_em.language import store
from implicit_em.language.store import DOCUMENTS, VOCABULARY, Documents, Manifest, Shard

COMPARED = ("settings", "model", "text", "files")
"""Parts of the manifest that must be those of the store; the others follow from them."""


class StoreWriter:
    """A store that is written shard by shard.

    The manifest names every shard from the beginning, and has the digest of those that are written.
    So a store that was killed goes on with the others.

    Args:
        path: directory of the store.

    Raises:
        DamagedError: if its manifest is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.manifest = store.read_manifest(self.path)

    def refuse_other(self, settings: Mapping[str, Any]) -> None:
        """Raise ``ConfigError`` if the store was begun with other settings."""
        if self.manifest is not None:
            self._refuse({"settings": self.manifest.settings}, {"settings": settings})

    def documents(self) -> Documents | None:
        """Return the documents of a store that was begun, or raise ``DamagedError``."""
        if self.manifest is None or not (self.path / DOCUMENTS).exists():
            return None
        return store.read_documents(self.path, self.manifest)

    def missing(self, manifest: Manifest) -> list[int]:
        """Return the places, in the list of all shards, of those that are not written."""
        return store.missing_of(self.path, manifest if self.manifest is None else self.manifest)

    def begin(self, manifest: Manifest, documents: Documents, vocabulary: Sequence[str]) -> None:
        """Write everything but the shards, unless that was done before.

        Raises:
            ConfigError: if the directory holds another store.
            WriteError: if a file cannot be written.
        """
        with locked(self.path):
            there = store.read_manifest(self.path)
            if there is None or not (self.path / DOCUMENTS).exists():
                documents.save(self.path / DOCUMENTS)
            if there is None or not (self.path / VOCABULARY).exists():
                write_json(self.path / VOCABULARY, {"tokens": list(vocabulary)})
            names = (DOCUMENTS, VOCABULARY)
            files = {name: digest_of_file(self.path / name) for name in names}
            manifest = manifest.model_copy(update={"files": files})
            if there is None:
                store.write_manifest(self.path, manifest)
            else:
                self._refuse(there.model_dump(), manifest.model_dump())
            self.manifest = there or manifest

    def write(self, place: int, arrays: dict[str, Tensor], folder: str = "") -> Shard:
        """Write a shard into a folder of the store, note its digest, and return it with that.

        Raises:
            ConfigError: if it was written before, with other bits.
            WriteError: if it cannot be written.
        """
        assert self.manifest is not None, "begin() comes first"
        path = self.path / folder / self.manifest.shards[place].file
        with store.tensors_file(path, arrays) as temporary:
            digest = digest_of_file(temporary)
            written = self.manifest.shards[place].model_copy(update={"sha256": digest})
            with locked(self.path):
                there = store.read_manifest(self.path)
                assert there is not None, "begin() wrote it"
                if (noted := there.shards[place].sha256) is None:
                    there.shards[place] = written
                    store.write_manifest(self.path, there)
                self.manifest = there
            if noted not in (None, digest):
                raise ConfigError(
                    f"{path}: has other bits than when it was first harvested; harvest it with the "
                    "machine and the libraries that began the store, or choose another directory"
                )
        return written

    def end(self) -> int:
        """Return how many shards are missing; of a complete store, remove what kills have left."""
        assert self.manifest is not None, "begin() comes first"
        with locked(self.path):
            self.manifest = store.read_manifest(self.path) or self.manifest
            missing = len(self.missing(self.manifest))
            if not missing:
                names = [*self.manifest.files, *(shard.file for shard in self.manifest.shards)]
                for part in (p for name in names for p in half_written(self.path / name)):
                    part.unlink(missing_ok=True)
        return missing

    def _refuse(self, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        """Raise ``ConfigError`` with the settings or digests in which two manifests differ."""
        theirs, ours = ({p: content.get(p, {}) for p in COMPARED} for content in (there, here))
        if found := differences(theirs, ours):
            shown = listed([(key.removeprefix("settings."), *pair) for key, *pair in found])
            raise ConfigError(
                f"store={self.path}: holds another store ({shown}); choose another directory"
            )


def refuse_small_disk(name: str, path: Path, needed: int) -> None:
    """Raise ``ConfigError`` if the disk of a directory, which need not exist, has less room.

    Args:
        name: the setting that names the directory.
        path: the directory.
        needed: number of bytes.
    """
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    if needed > (free := shutil.disk_usage(folder).free):
        raise ConfigError(
            f"{name}={path}: the shards need {needed / 1e9:.3g} GB more, but "
            f"{free / 1e9:.3g} GB are free"
        )
