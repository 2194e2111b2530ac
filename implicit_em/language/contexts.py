"""Documents as token ids, the contexts that they become, and the shards that these are dealt to."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from implicit_em.base import interruption
from implicit_em.base.errors import ConfigError
from implicit_em.base.validation import conforming
from implicit_em.language.models import LanguageModel
from implicit_em.language.settings import ContextSettings, HarvestSettings
from implicit_em.language.store import SPLITS, ActivationStore, Documents, Split
from implicit_em.language.texts import Document, Source

CHARACTERS = 2**20
"""Number of characters to tokenise at a time."""


class Affixes(NamedTuple):
    """Special tokens around each context."""

    prefix: list[int]
    suffix: list[int]

    @property
    def size(self) -> int:
        """Number of special tokens of a context."""
        return len(self.prefix) + len(self.suffix)


def affixes_of(model: LanguageModel, context: ContextSettings) -> Affixes:
    """Return the special tokens that the model's tokenizer puts around a context.

    Raises:
        ConfigError: if contexts have no room for text, or more than the model takes.
    """
    affixes = Affixes([], [])
    if context.special_tokens:
        text = model.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = model.tokenizer("a")["input_ids"]
        start = next(n for n in range(len(whole)) if whole[n : n + len(text)] == text)
        affixes = Affixes(whole[:start], whole[start + len(text) :])
    least, most = affixes.size + 1, model.longest or context.length
    if not least <= context.length <= most:
        raise ConfigError(
            f"context.length={context.length}: {model.name} takes {least} to {most} tokens"
        )
    return affixes


def harvested_as(store: ActivationStore) -> tuple[ContextSettings, Affixes]:
    """Return how the documents of a store became contexts."""
    manifest, subject = store.manifest, f"{store.path}: settings.context"
    context = conforming(ContextSettings, manifest.settings["context"], subject)
    return context, Affixes(manifest.prefix, manifest.suffix)


class Gathered(NamedTuple):
    """Documents, the values of their labels, and a digest of their texts and labels."""

    documents: Documents
    labels: dict[str, list[str]]
    sha256: str


class _Read(NamedTuple):
    """A document that was read: its split, its token ids, and its labels."""

    split: int
    ids: np.ndarray
    labels: Mapping[str, str]


def gather(source: Source, tokenizer: Any, settings: HarvestSettings, affixes: Affixes) -> Gathered:
    """Read and tokenise documents until there are ``settings.tokens`` tokens.

    A text that was there before is left out.

    Args:
        source: source of the text.
        tokenizer: transformers' tokenizer.
        settings: how much is read, and how documents are cut and split.
        affixes: special tokens around each context.

    Raises:
        ConfigError: if there is no text.
    """
    context = settings.context
    most = context.truncation and context.truncation * (context.length - affixes.size)
    read: list[_Read] = []
    seen: set[bytes] = set()
    digest, total = hashlib.sha256(), 0
    for document, ids in _tokenised(source.documents(settings.seed), tokenizer):
        interruption.stop_if_requested()
        name = hashlib.sha256(document.text.encode(errors="surrogatepass")).digest()
        if not ids or name in seen:
            continue
        seen.add(name)
        digest.update(name + repr(sorted(document.labels.items())).encode())
        kept = np.array(ids[:most], dtype=np.int32)
        read.append(_Read(_split_of(name, settings), kept, document.labels))
        total += len(kept)
        if settings.tokens is not None and total >= settings.tokens:
            break
    if not read:
        raise ConfigError(f"text: {type(source).__name__} gives no text")
    read.sort(key=lambda document: document.split)
    return Gathered(*_together(read), digest.hexdigest())


def _together(read: Sequence[_Read]) -> tuple[Documents, dict[str, list[str]]]:
    """Return documents as the arrays of a store, and the values of each label."""
    values: dict[str, list[str]] = {}
    labels: dict[str, Tensor] = {}
    for name in sorted({name for document in read for name in document.labels}):
        found = [document.labels.get(name) for document in read]
        values[name] = sorted({value for value in found if value is not None})
        numbers = {None: -1} | {value: number for number, value in enumerate(values[name])}
        labels[name] = torch.tensor([numbers[value] for value in found], dtype=torch.int32)
    documents = Documents(
        torch.from_numpy(np.concatenate([document.ids for document in read])),
        torch.tensor([0, *itertools.accumulate(len(document.ids) for document in read)]),
        torch.tensor([document.split for document in read], dtype=torch.int32),
        labels,
    )
    return documents, values


def _tokenised(
    documents: Iterator[Document], tokenizer: Any
) -> Iterator[tuple[Document, list[int]]]:
    """Yield documents with their token ids; several are tokenised at a time."""
    batch: list[Document] = []
    characters = 0
    for document in itertools.chain(documents, [None]):
        if document is not None:
            batch.append(document)
            characters += len(document.text)
        if batch and (document is None or characters >= CHARACTERS):
            texts = [read.text for read in batch]
            ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            yield from zip(batch, ids, strict=True)
            batch, characters = [], 0


def _split_of(name: bytes, settings: HarvestSettings) -> int:
    """Return the number of the split into which a document goes by the hash of its text."""
    place = int.from_bytes(name[:8], "big") / 2**64
    if place < settings.split.test:
        return SPLITS.index("test")
    held_out = settings.split.test + settings.split.validation
    return SPLITS.index("validation" if place < held_out else "train")


@dataclass(frozen=True)
class PlannedShard:
    """A shard before it is written: its contexts, as slices of the token ids of all documents.

    Args:
        split: name of the split.
        number: number of the shard in its split.
        bounds_C2: start and end of each context's slice, int64; the longest come first.
        tokens: number of tokens N, with special ones.
    """

    split: Split
    number: int
    bounds_C2: np.ndarray
    tokens: int


def plan(documents: Documents, settings: HarvestSettings, affixes: Affixes) -> list[PlannedShard]:
    """Cut the documents into contexts, and deal those of each split to shards.

    Raises:
        ConfigError: if no context is left.
    """
    per_shard = max(1, settings.shard_tokens // settings.context.length)
    shards = []
    for index, split in enumerate(SPLITS):
        bounds_C2 = cut(documents, split, settings.context, affixes)
        order = np.random.default_rng([settings.seed, index]).permutation(len(bounds_C2))
        for number, start in enumerate(range(0, len(order), per_shard)):
            dealt_C2 = bounds_C2[order[start : start + per_shard]]
            lengths_C = dealt_C2[:, 1] - dealt_C2[:, 0]
            dealt_C2 = dealt_C2[np.argsort(-lengths_C, kind="stable")]
            tokens = int(lengths_C.sum()) + affixes.size * len(lengths_C)
            shards.append(PlannedShard(split, number, dealt_C2, tokens))
    if not shards:
        raise ConfigError(
            f"context.padding=none: no document fills a context of context.length="
            f"{settings.context.length} tokens"
        )
    return shards


def cut(
    documents: Documents, split: Split, context: ContextSettings, affixes: Affixes
) -> np.ndarray:
    """Return the contexts of a split, as slices of ``documents.ids_T``; int64, ``(C, 2)``."""
    size = context.length - affixes.size
    inside = np.flatnonzero(documents.splits_N.numpy() == SPLITS.index(split))
    starts_N = documents.starts_N.numpy()
    pieces = [(starts_N[number], starts_N[number + 1]) for number in inside]
    if context.packing and pieces:  # documents of a split stand together
        pieces = [(pieces[0][0], pieces[-1][1])]
    starts = [(start, end) for first, end in pieces for start in range(first, end, size)]
    slices = [(start, min(start + size, end)) for start, end in starts]
    bounds_C2 = np.array(slices, dtype=np.int64).reshape(-1, 2)
    if context.padding == "none":
        bounds_C2 = bounds_C2[bounds_C2[:, 1] - bounds_C2[:, 0] == size]
    return bounds_C2


def contexts_of(
    contexts_C2: np.ndarray, documents: Documents, document_N: np.ndarray, place_N: np.ndarray
) -> np.ndarray:
    """Return the numbers of the contexts that hold tokens, by their places in documents.

    They are int64, -1 for special tokens and those of other contexts.
    """
    at_N = documents.starts_N.numpy()[document_N] + place_N
    numbers_N = np.searchsorted(contexts_C2[:, 0], at_N, side="right") - 1
    inside_N = (place_N >= 0) & (at_N < contexts_C2[numbers_N, 1])
    return np.where(inside_N, numbers_N, -1)


class Batch(NamedTuple):
    """Contexts that a model reads together, int64, padded on the right.

    The mask is 1 for tokens and 0 for padding. A token's place is its index in its document, -1 for
    special tokens.
    """

    ids_BL: Tensor
    mask_BL: Tensor
    document_BL: Tensor
    place_BL: Tensor

    @property
    def tokens(self) -> tuple[Tensor, ...]:
        """The values of the arrays of ``data.store.TOKENS``, each of shape ``(B, L)``."""
        position_BL = torch.arange(self.ids_BL.shape[1]).expand(self.ids_BL.shape)
        return self.ids_BL, self.document_BL, position_BL, self.place_BL


def batches(
    bounds_C2: np.ndarray,
    documents: Documents,
    context: ContextSettings,
    affixes: Affixes,
    padding_id: int,
    batch_size: int,
) -> Iterator[Batch]:
    """Yield contexts, which are slices of ``documents.ids_T``, in batches and in their order."""
    ids_T, starts_N = documents.ids_T.numpy(), documents.starts_N.numpy()
    prefix, suffix = (np.array(ids, dtype=np.int64) for ids in affixes)
    for first in range(0, len(bounds_C2), batch_size):
        bounds_B2 = bounds_C2[first : first + batch_size]
        length = int((bounds_B2[:, 1] - bounds_B2[:, 0]).max()) + affixes.size
        if context.padding == "length":
            length = context.length
        shape = (len(bounds_B2), length)
        ids_BL, document_BL = np.full(shape, padding_id), np.zeros(shape, dtype=np.int64)
        mask_BL, place_BL = np.zeros(shape, dtype=np.int64), np.full(shape, -1)
        for row, (start, end) in enumerate(bounds_B2):
            places = np.arange(start, end)
            numbers = np.searchsorted(starts_N, places, side="right") - 1
            inside = slice(len(prefix), len(prefix) + len(places))
            stop = inside.stop + len(suffix)
            ids_BL[row, :stop] = np.concatenate([prefix, ids_T[start:end], suffix])
            mask_BL[row, :stop] = 1
            document_BL[row, :stop] = numbers[0]
            document_BL[row, inside] = numbers
            document_BL[row, inside.stop : stop] = numbers[-1]
            place_BL[row, inside] = places - starts_N[numbers]
        yield Batch(*map(torch.from_numpy, (ids_BL, mask_BL, document_BL, place_BL)))
