"""The store of a harvest: vectors from inside a language model, and the text that it read.

A store is a directory. Its manifest says where all comes from and has a digest of each file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import TypedDict

from implicit_em.base.digest import digest_of_file
from implicit_em.base.errors import ConfigError, DamagedError, raising
from implicit_em.base.files import read_json, whole, write_json
from implicit_em.base.validation import read_as
from implicit_em.base.values import check_word
from implicit_em.data.arrays import ArrayOnDisk, in_safetensors, unchanged
from implicit_em.language.configuration import MANIFEST, digest_of_store

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
DOCUMENTS: Final = "documents.safetensors"
VOCABULARY: Final = "vocabulary.json"
AHEAD = "ahead"
"""Folder, in a store, of the shards that are made ahead of a training, and dropped behind it."""
TOKENS = ("token", "document", "position", "place")
"""Arrays of a shard beside the vectors and their norms, int32, shape ``(N,)``."""


Count = Annotated[int, Field(ge=0, lt=2**40)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shard(_Entry):
    """A file of vectors: its split, its number in the split, its tokens N, and its digest.

    The digest is ``None`` until the file is written.
    """

    split: Split
    number: Count
    tokens: Count
    sha256: Digest | None = None

    @property
    def file(self) -> str:
        """The name of the file."""
        return f"{self.split}-{self.number:05d}.safetensors"


class Model(TypedDict):
    """The model that a store was harvested from."""

    name: str
    architecture: str
    blocks: Count
    files: dict[str, Digest]
    """SHA-256 of its files."""


class Text(TypedDict):
    """The text that the model read."""

    documents: Count
    tokens: Count
    """Number of tokens of the documents."""
    sha256: Digest
    """Digest of texts and labels."""


Files = TypedDict(
    "Files", {"documents.safetensors": Digest | None, "vocabulary.json": Digest | None}
)
"""SHA-256 of the files that are no shards; ``None`` until they are written."""


class Manifest(_Entry):
    """What a store holds, and where it comes from."""

    version: Literal[1] = 1
    settings: dict[str, Any]
    """Settings that decide what the store holds."""
    model: Model
    text: Text
    versions: dict[str, str]
    """Versions of the libraries that began the store."""
    sites: Annotated[dict[str, Annotated[int, Field(ge=1, lt=2**31)]], Field(min_length=1)]
    """Width D of the vectors of each site."""
    dtype: Literal["float16", "bfloat16"]
    special_tokens: list[TokenId]
    """Token ids that are no text."""
    prefix: list[TokenId]
    """Special tokens in front of each context."""
    suffix: list[TokenId]
    """Special tokens at the end of each context."""
    labels: dict[str, list[str]]
    """The values of each label, by their numbers."""
    files: Files
    shards: list[Shard]

    @property
    def bytes_a_token(self) -> int:
        """Number of bytes that a token takes in a shard."""
        return sum(2 * width + 4 for width in self.sites.values()) + 4 * len(TOKENS)


@dataclass(frozen=True)
class Documents:
    """The documents of a store by their numbers; those of a split stand together.

    Args:
        ids_T: token ids of all documents, one after another, int32.
        starts_N: place of each document's first token in ``ids_T``, and the end of the last one;
            int64, shape ``(N + 1,)``.
        splits_N: number of each document's split in ``SPLITS``, int32.
        labels: number of each document's value of a label, int32, shape ``(N,)``; -1 for none.
    """

    ids_T: Tensor
    starts_N: Tensor
    splits_N: Tensor
    labels: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.splits_N)

    def ids(self, number: int) -> Tensor:
        """Return the token ids of a document in their order, int32."""
        return self.ids_T[self.starts_N[number] : self.starts_N[number + 1]]

    def save(self, path: Path) -> None:
        """Write the documents, or raise ``WriteError``."""
        labels = {f"label.{name}": numbers_N for name, numbers_N in self.labels.items()}
        arrays = {"ids": self.ids_T, "starts": self.starts_N, "splits": self.splits_N}
        save_tensors(path, arrays | labels)


@contextmanager
def tensors_file(path: Path, tensors: dict[str, Tensor]) -> Iterator[Path]:
    """Yield the temporary path of a safetensors file, which has its name after the block.

    Raises:
        WriteError: if it cannot be written.
    """
    with whole(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors lets nobody else read
        try:
            save_file(tensors, temporary)
            temporary.chmod(mode)
        except SafetensorError as error:  # such as a full disk
            raise OSError(str(error)) from error
        yield temporary


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file atomically, or raise ``WriteError``."""
    with tensors_file(path, tensors):
        pass


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest in a directory, or ``None`` if there is none.

    Raises:
        DamagedError: if the file is no manifest of this version.
    """
    try:
        return read_as(Manifest, path / MANIFEST)
    except FileNotFoundError:
        return None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest into a directory atomically, or raise ``WriteError``."""
    write_json(path / MANIFEST, manifest.model_dump())


def missing_of(path: Path, manifest: Manifest) -> list[int]:
    """Return the places, in the list of all shards, of those that a directory lacks."""
    return [
        place
        for place, shard in enumerate(manifest.shards)
        if shard.sha256 is None or not (path / shard.file).exists()
    ]


def is_whole(path: Path) -> bool:
    """Return whether a directory holds a store and all of its shards."""
    manifest = read_manifest(path)
    return manifest is not None and not missing_of(path, manifest)


class ActivationStore:
    """A complete store, read from its directory.

    Each file is compared with its digest when it is first read. ``digest`` is that of the file from
    which ``manifest`` was read; see ``language.configuration.digest_of_store``.

    Stores of one path, digest and ``kept`` are equal.

    Args:
        path: directory of the store.
        kept: number of training shards that count, the first ones. The others are made while a run
            trains, and ``digest`` is that of the plan. ``None`` for all.

    Raises:
        ConfigError: if it holds no store, or, without ``kept``, one that is not complete.
        DamagedError: if its manifest is damaged.
    """

    def __init__(self, path: str | Path, kept: int | None = None) -> None:
        self.path = Path(path).expanduser()
        self.kept = kept
        self.digest = digest_of_store(self.path, kept)
        manifest = read_manifest(self.path)
        if digest_of_store(self.path, kept) != self.digest:
            raise ConfigError(f"{self.path}: its {MANIFEST} changes while it is read")
        if manifest is None:
            raise ConfigError(
                f"{self.path}: no store: it has no {MANIFEST}; implicit-em harvest writes one"
            )
        missing = sum(shard.sha256 is None for shard in manifest.shards)
        if missing and kept is None:
            raise ConfigError(
                f"{self.path}: not complete: {missing} of {len(manifest.shards)} shards are "
                "missing; the command of its harvest goes on"
            )
        self.manifest = manifest

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ActivationStore):
            return NotImplemented
        return (self.path, self.digest, self.kept) == (other.path, other.digest, other.kept)

    def __hash__(self) -> int:
        return hash((self.path, self.digest, self.kept))

    def shards(self, split: str) -> list[Shard]:
        """Return the shards of ``train``, ``validation`` or ``test`` that count."""
        found = [shard for shard in self.manifest.shards if shard.split == split]
        return found[: self.kept] if split == "train" else found

    @property
    def held(self) -> list[Shard]:
        """The shards of all splits that count."""
        return [shard for split in SPLITS for shard in self.shards(split)]

    def missing(self) -> list[int]:
        """Return the places, in the list of all shards, of those that count and are not there."""
        held = {shard.file for shard in self.held}
        places = missing_of(self.path, self.manifest)
        return [place for place in places if self.manifest.shards[place].file in held]

    def file(self, shard: Shard) -> Path:
        """Return the path of a shard: in the folder ``AHEAD`` if it is there alone."""
        here, ahead = self.path / shard.file, self.path / AHEAD / shard.file
        return ahead if self.kept is not None and not here.exists() and ahead.exists() else here

    def read(self, shard: Shard, names: Sequence[str] = ()) -> dict[str, Tensor]:
        """Return arrays of a shard by their names, or all of them.

        The name of a site stands for its vectors ``(N, D)``, ``norm.`` and a site for their norms
        before they were rounded, float32, shape ``(N,)``. The tokens are in a random order. Each
        has its id (``token``), the number of its ``document``, its ``position`` in the context and
        its ``place`` in the document, -1 for special tokens; all int32, shape ``(N,)``.

        Raises:
            ConfigError: if the store has no array of a name.
            DamagedError: if the file is missing or damaged; the message names it.
        """
        arrays = self._arrays_of(shard)
        for wanted in names:
            check_word(f"{self.path}: array", wanted, arrays)
        return {wanted: arrays[wanted].whole() for wanted in names or arrays}

    def arrays(self, shard: Shard, sites: Sequence[str]) -> list[ArrayOnDisk]:
        """Return the vectors of a shard at sites; they stay in the file. Raises as ``read``."""
        arrays = self._arrays_of(shard)
        return [arrays[site] for site in sites]

    def _arrays_of(self, shard: Shard) -> dict[str, ArrayOnDisk]:
        expected: dict[str, tuple[Any, ...]] = dict.fromkeys(TOKENS, ("int32", shard.tokens))
        for site, width in self.manifest.sites.items():
            expected[site] = (self.manifest.dtype, shard.tokens, width)
            expected[f"norm.{site}"] = ("float32", shard.tokens)
        return _arrays(self.file(shard), shard.sha256, expected)

    def column(self, name: str, split: str) -> Tensor:
        """Return an array of all shards of a split, one after another; raises as ``read`` does."""
        parts = [self.read(shard, [name])[name] for shard in self.shards(split)]
        return torch.cat(parts) if parts else torch.empty(0)

    def check(self, shard: Shard) -> Path:
        """Return the path of a shard, or raise ``DamagedError`` if it is not as it was written."""
        return checked(self.file(shard), shard.sha256)

    def documents(self) -> Documents:
        """Return the documents, or raise ``DamagedError``."""
        return read_documents(self.path, self.manifest)

    def vocabulary(self) -> list[str]:
        """Return the text of each token id, or raise ``DamagedError``."""
        file = checked(self.path / VOCABULARY, self.manifest.files[VOCABULARY])
        return read_json(file)["tokens"]


def read_documents(path: Path, manifest: Manifest) -> Documents:
    """Return the documents of a store, which may not be complete, or raise ``DamagedError``."""
    documents, tokens = manifest.text["documents"], manifest.text["tokens"]
    expected: dict[str, tuple[Any, ...]] = {
        "ids": ("int32", tokens),
        "starts": ("int64", documents + 1),
        "splits": ("int32", documents),
        **{f"label.{name}": ("int32", documents) for name in manifest.labels},
    }
    found = _arrays(path / DOCUMENTS, manifest.files[DOCUMENTS], expected)
    ids_T, starts_N, splits_N, *labels = (found[name].whole() for name in expected)
    return Documents(ids_T, starts_N, splits_N, dict(zip(manifest.labels, labels, strict=True)))


def _arrays(
    path: Path, sha256: str | None, expected: Mapping[str, tuple[Any, ...]]
) -> dict[str, ArrayOnDisk]:
    """Return the arrays of a file, or raise ``DamagedError`` if it is not as it is described.

    Args:
        path: path of the file.
        sha256: its digest.
        expected: by the names of arrays that it must hold, the dtype, then the shape.
    """
    no_arrays = raising(DamagedError, f"{path}: no arrays", Exception)  # its content is anybody's
    with unchanged(checked(path, sha256), sha256=sha256) as file, no_arrays:
        arrays = in_safetensors(file)
    for name, (dtype, *shape) in expected.items():
        array = arrays.get(name)
        found = array and f"{str(array.dtype).removeprefix('torch.')} of shape {tuple(array.shape)}"
        if found != (described := f"{dtype} of shape {tuple(shape)}"):
            raise DamagedError(
                f"{path}: {name} is {found or 'missing'}, but the manifest says {described}"
            )
    return arrays


def checked(path: Path, sha256: str | None) -> Path:
    """Return the path of a file of a store, or raise ``DamagedError`` for another digest."""
    try:
        found = digest_of_file(path)
    except FileNotFoundError as error:
        raise DamagedError(
            f"{path}: missing; the command of the store's harvest writes it again or, if it has "
            "kept=N, data.ahead=N makes it"
        ) from error
    if found != sha256:
        raise DamagedError(
            f"{path}: damaged: its SHA-256 is not that of the manifest; delete it, and the command "
            "of the store's harvest writes it again"
        )
    return path
