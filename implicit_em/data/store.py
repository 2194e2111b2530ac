"""The store of a harvest: vectors from inside a language model, and the text that it read.

A store is a directory. Its manifest says where all comes from and has a digest of each file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from implicit_em.base.digest import digest_of_file, digest_of_store
from implicit_em.base.errors import ConfigError, DamagedError, raising
from implicit_em.base.files import read_json, whole, write_json
from implicit_em.base.validation import first_mistake
from implicit_em.base.values import check_word
from implicit_em.data.arrays import ArrayOnDisk, in_safetensors, unchanged

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
MANIFEST = "manifest.json"
DOCUMENTS = "documents.safetensors"
VOCABULARY = "vocabulary.json"
TOKENS = ("token", "document", "position", "place")
"""Arrays of a shard beside the vectors and their norms, int32, shape ``(N,)``."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Entry):
    """A file of vectors: its split, its number in the split, its tokens N, and its digest.

    The digest is ``None`` until the file is written.
    """

    split: Split
    number: int
    tokens: int
    sha256: str | None = None

    @property
    def file(self) -> str:
        """The name of the file."""
        return f"{self.split}-{self.number:05d}.safetensors"


class Manifest(_Entry):
    """What a store holds, and where it comes from."""

    version: Literal[1] = 1
    settings: dict[str, Any]
    """Settings that decide what the store holds."""
    model: dict[str, Any]
    """The model's ``name``, ``architecture`` and ``blocks``, and the SHA-256 of its ``files``."""
    text: dict[str, Any]
    """The number of ``documents``, of their ``tokens``, and the ``sha256`` of texts and labels."""
    versions: dict[str, str]
    """Versions of the libraries that began the store."""
    sites: dict[str, int]
    """Width D of the vectors of each site."""
    dtype: Literal["float16", "bfloat16"]
    special_tokens: list[int]
    """Token ids that are no text."""
    prefix: list[int]
    """Special tokens in front of each context."""
    suffix: list[int]
    """Special tokens at the end of each context."""
    labels: dict[str, list[str]]
    """The values of each label, by their numbers."""
    files: dict[str, str]
    """SHA-256 of the other files."""
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


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file atomically, or raise ``WriteError``."""
    with whole(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors lets nobody else read
        try:
            save_file(tensors, temporary)
            temporary.chmod(mode)
        except SafetensorError as error:  # such as a full disk
            raise OSError(str(error)) from error


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest in a directory, or ``None`` if there is none.

    Raises:
        DamagedError: if the file is no manifest of this version.
    """
    file = path / MANIFEST
    try:
        return Manifest.model_validate(read_json(file))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        mistake = first_mistake(error, Manifest)
        raise DamagedError(f"{file}: no manifest of a store: {mistake}") from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest into a directory atomically, or raise ``WriteError``."""
    write_json(path / MANIFEST, manifest.model_dump())


class ActivationStore:
    """A complete store, read from its directory.

    Each file is compared with its digest when it is first read. ``digest`` is that of the manifest
    from which ``manifest`` was read, see ``base.digest.digest_of_store``.

    Args:
        path: directory of the store.

    Raises:
        ConfigError: if it holds no store, or one that is not complete.
        DamagedError: if its manifest is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.digest = digest_of_store(self.path)
        manifest = read_manifest(self.path)
        if digest_of_store(self.path) != self.digest:
            raise ConfigError(f"{self.path}: its {MANIFEST} changes while it is read")
        if manifest is None:
            raise ConfigError(
                f"{self.path}: no store: it has no {MANIFEST}; implicit-em harvest writes one"
            )
        missing = sum(shard.sha256 is None for shard in manifest.shards)
        if missing:
            raise ConfigError(
                f"{self.path}: not complete: {missing} of {len(manifest.shards)} shards are "
                "missing; the command of its harvest goes on"
            )
        self.manifest = manifest

    def shards(self, split: str) -> list[Shard]:
        """Return the shards of ``train``, ``validation`` or ``test``."""
        return [shard for shard in self.manifest.shards if shard.split == split]

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
        arrays = self.arrays(shard)
        for wanted in names:
            check_word(f"{self.path}: array", wanted, arrays)
        return {wanted: arrays[wanted].whole() for wanted in names or arrays}

    def arrays(self, shard: Shard) -> dict[str, ArrayOnDisk]:
        """Return the arrays of a shard, as ``read`` names them; they stay in the file.

        Raises:
            DamagedError: if the file is missing, damaged, or not as the manifest describes it.
        """
        path, count = self.check(shard), shard.tokens
        no_shard = raising(DamagedError, f"{path}: no shard", Exception)  # its content is anybody's
        with unchanged(path, sha256=shard.sha256) as file, no_shard:
            names, get = in_safetensors(file)
            arrays = {name: get(name) for name in names}
        vectors = {s: (self.manifest.dtype, count, d) for s, d in self.manifest.sites.items()}
        norms = {f"norm.{site}": ("float32", count) for site in vectors}
        for name, expected in {
            **dict.fromkeys(TOKENS, ("int32", count)),
            **norms,
            **vectors,
        }.items():
            array = arrays.get(name)
            found = array and (str(array.dtype).removeprefix("torch."), *array.shape)
            if found != expected:
                raise DamagedError(
                    f"{path}: {name} is {_type(found)}, but the manifest says {_type(expected)}"
                )
        return arrays

    def column(self, name: str, split: str) -> Tensor:
        """Return an array of all shards of a split, one after another; raises as ``read`` does."""
        parts = [self.read(shard, [name])[name] for shard in self.shards(split)]
        return torch.cat(parts) if parts else torch.empty(0)

    def check(self, shard: Shard) -> Path:
        """Return the path of a shard, or raise ``DamagedError`` if it is not as it was written."""
        return checked(self.path / shard.file, shard.sha256)

    def documents(self) -> Documents:
        """Return the documents, or raise ``DamagedError``."""
        return read_documents(self.path, self.manifest)

    def vocabulary(self) -> list[str]:
        """Return the text of each token id, or raise ``DamagedError``."""
        checked(self.path / VOCABULARY, self.manifest.files[VOCABULARY])
        return read_json(self.path / VOCABULARY)["tokens"]


def read_documents(path: Path, manifest: Manifest) -> Documents:
    """Return the documents of a store, which may not be complete, or raise ``DamagedError``."""
    with safe_open(checked(path / DOCUMENTS, manifest.files[DOCUMENTS]), framework="pt") as file:
        labels = {name: file.get_tensor(f"label.{name}") for name in manifest.labels}
        ids_T, starts_N, splits_N = map(file.get_tensor, ("ids", "starts", "splits"))
        return Documents(ids_T, starts_N, splits_N, labels)


def _type(array: tuple[Any, ...] | None) -> str:
    """Return how a message calls the type and shape of an array."""
    return f"{array[0]} of shape {array[1:]}" if array else "missing"


def checked(path: Path, sha256: str | None) -> Path:
    """Return the path of a file of a store, or raise ``DamagedError`` for another digest."""
    try:
        found = digest_of_file(path)
    except FileNotFoundError as error:
        raise DamagedError(
            f"{path}: missing; the command of the store's harvest writes it again"
        ) from error
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}") from error
    if found != sha256:
        raise DamagedError(
            f"{path}: damaged: its SHA-256 is not that of the manifest; delete it, and the command "
            "of the store's harvest writes it again"
        )
    return path
