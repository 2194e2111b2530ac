"""What a sample looks like on a page: an image, a text with its tokens, or only a number."""

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import Normalize
from PIL import Image
from torch import Tensor

from implicit_em.data import ResidentDataModule, as_unit_float
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.store import Split
from implicit_em.language.token_classes import classes_of
from implicit_em.metrics.feature_grid import RED_WHITE_BLUE, is_image
from implicit_em.trained.activity import Unit
from implicit_em.viewer.statistics import raised_by

BEFORE, AFTER = 24, 12
"""Number of tokens that are shown in front of a token, and after it."""
TOKEN = "token: "
"""What the names of classes of tokens begin with, among labels."""
LEAST = 5
"""Tokens that occur less often do not count as those that raise a unit."""
MOST_TOKENS = 8
"""Largest number of tokens that raise a unit."""
MOST_LABELS = 200
"""Largest number of values of a label; one with more says nothing about a unit."""
AVERAGED = 4096
"""Number of images that are added up at a time."""

Labels = Mapping[str, tuple[np.ndarray, Sequence[str]]]
"""By the name of each label, the number of its value for each sample, ``(N,)``, and the names of
the values; -1 stands for none."""


class Seen:
    """The N samples of a page.

    Args:
        samples: samples ``(N, D)``, as the model takes them.
        labels: their labels.
    """

    kind: str

    def __init__(self, samples: Any, labels: Labels) -> None:
        self.samples = samples
        self.labels = labels
        self.groups_N = np.arange(len(samples))
        # The first place is for samples without a value.
        self.counts = {
            name: np.bincount(numbers_N + 1, minlength=len(values) + 1)
            for name, (numbers_N, values) in labels.items()
        }

    def about(self) -> dict[str, Any]:
        """Return what the page must know about all samples."""
        return {}

    def examples(self, unit: Unit, samples_M: np.ndarray) -> list[list[Any]]:
        """Return, for each sample, its number, its activation, and the value of each label."""
        pairs = zip(samples_M.tolist(), shortened(unit.at(samples_M)), strict=True)
        return [
            [sample, value, [named(label, sample) for label in self.labels.values()]]
            for sample, value in pairs
        ]

    def of_unit(self, unit: Unit, row_D: np.ndarray) -> dict[str, Any]:
        """Return what else there is to see of a unit, given its row of weights."""
        return {}

    def tokens(self, unit: Unit) -> list[list[Any]] | None:
        """Return the tokens on which a unit's mean activation is largest; ``None`` without tokens.

        Each is the token's id, the mean, and how often the token occurs.
        """
        return None


class Vectors(Seen):
    """Samples that are no images: their numbers are shown."""

    kind = "vectors"

    def of_unit(self, unit: Unit, row_D: np.ndarray) -> dict[str, Any]:
        """Return the row of weights."""
        return {"row": shortened(row_D)}


class Images(Vectors):
    """Images of one channel.

    Args:
        shape: height and width.
        normalizer: normaliser of the samples; ``None`` if they are as they were read.
        samples: see ``Seen``.
        labels: see ``Seen``.
    """

    kind = "images"

    def __init__(
        self, samples: Any, labels: Labels, shape: tuple[int, int], normalizer: Any
    ) -> None:
        super().__init__(samples, labels)
        self.shape, self.normalizer = shape, normalizer
        some = self._pixels(np.arange(min(len(samples), AVERAGED)))
        self.grey = Normalize(float(some.min()), float(some.max()))

    def about(self) -> dict[str, Any]:
        """Return the height and width."""
        return {"shape": list(self.shape)}

    def examples(self, unit: Unit, samples_M: np.ndarray) -> list[list[Any]]:
        """Return as ``Seen`` does, and the image."""
        pairs = zip(super().examples(unit, samples_M), self._pixels(samples_M), strict=True)
        return [[*one, self._grey(pixels_D)] for one, pixels_D in pairs]

    def of_unit(self, unit: Unit, row_D: np.ndarray) -> dict[str, Any]:
        """Return the row of weights as an image, and the mean of what activates the unit."""
        limit = float(np.abs(row_D).max()) or 1.0
        coloured = RED_WHITE_BLUE(Normalize(-limit, limit)(row_D.reshape(self.shape)))
        found = {"weights": _png((255 * coloured[..., :3]).round().astype(np.uint8))}
        if len(unit.samples_E):
            total_D = np.zeros(len(row_D))
            for start in range(0, len(unit.samples_E), AVERAGED):
                some = slice(start, start + AVERAGED)
                total_D += unit.values_E[some] @ self._pixels(unit.samples_E[some])
            found["mean"] = self._grey(total_D / unit.values_E.sum(dtype=np.float64))
        return found

    def _pixels(self, rows: np.ndarray) -> np.ndarray:
        found = as_unit_float(self.samples.index_select(0, torch.from_numpy(rows))).double()
        return (found if self.normalizer is None else self.normalizer.inverse(found)).numpy()

    def _grey(self, pixels_D: np.ndarray) -> str:
        grey = np.clip(self.grey(pixels_D.reshape(self.shape)), 0, 1)
        return _png((255 * grey).round().astype(np.uint8))


class Texts(Seen):
    """Tokens of a store, shown in their documents.

    Args:
        data: data module of the store.
        split: split of the samples.
        samples: see ``Seen``.
    """

    kind = "texts"

    def __init__(self, data: ActivationDataModule, split: Split, samples: Any) -> None:
        size, store = len(samples), data.store
        self.token_N, self.document_N, self.place_N = (
            data.column(name, split)[:size].numpy().astype(np.int64)
            for name in ("token", "document", "place")
        )
        self.documents, vocabulary = store.documents(), store.vocabulary()
        self._firsts = self.documents.starts_N.numpy()
        self._sizes = np.diff(self._firsts)
        self.vocabulary = readable(vocabulary, store.manifest.special_tokens)
        labels = {
            name: (self.documents.labels[name].numpy()[self.document_N], values)
            for name, values in store.manifest.labels.items()
        }
        for name, of_id in classes_of(vocabulary, store.manifest.special_tokens).items():
            labels[f"{TOKEN}{name}"] = (of_id[self.token_N].astype(np.int64), ["no", "yes"])
        super().__init__(samples, labels)
        self.groups_N = self.document_N
        self.counts_V = np.bincount(self.token_N, minlength=len(self.vocabulary))
        keys_N = self._keys(self.document_N, self.place_N)
        self._order_N = np.argsort(keys_N, kind="stable")
        self._keys_N = keys_N[self._order_N]

    def about(self) -> dict[str, Any]:
        """Return the vocabulary."""
        return {"vocabulary": self.vocabulary}

    def examples(self, unit: Unit, samples_M: np.ndarray) -> list[list[Any]]:
        """Return tokens in their documents.

        The parts are: the sample's number, its activation, the value of each label, its place in
        the document, the place of the first token that is shown, the token ids that are shown, and
        the activation on each, ``None`` for tokens that are no samples.
        """
        documents_M, places_M = self.document_N[samples_M], self.place_N[samples_M]
        special_M = places_M < 0  # those stand in no document, and are shown alone
        starts_M = np.where(special_M, -1, (places_M - BEFORE).clip(min=0))
        left_M = self._sizes[documents_M] - starts_M
        sizes_M = np.where(special_M, 1, np.minimum(places_M + AFTER + 1 - starts_M, left_M))
        ends_M = sizes_M.cumsum()
        steps_T = np.arange(sizes_M.sum()) - np.repeat(ends_M - sizes_M, sizes_M)
        documents_T = np.repeat(documents_M, sizes_M)
        places_T = np.repeat(starts_M, sizes_M) + steps_T
        rows_T = self._rows(documents_T, places_T)
        ids_T = self.documents.ids_T.numpy()[self._firsts[documents_T] + places_T]
        rows_T[ends_M[special_M] - 1] = samples_M[special_M]
        ids_T[ends_M[special_M] - 1] = self.token_N[samples_M[special_M]]
        pairs = zip(rows_T.tolist(), shortened(unit.at(rows_T)), strict=True)
        ids, values = ids_T.tolist(), [value if row >= 0 else None for row, value in pairs]
        slices = map(slice, ends_M - sizes_M, ends_M)
        parts = (super().examples(unit, samples_M), places_M.tolist(), starts_M.tolist(), slices)
        return [
            [*one, place, start, ids[shown], values[shown]]
            for one, place, start, shown in zip(*parts, strict=True)
        ]

    def tokens(self, unit: Unit) -> list[list[Any]]:
        """Return the tokens as ``Seen`` does."""
        tokens_E = self.token_N[unit.samples_E]
        found = raised_by(unit.values_E, tokens_E, self.counts_V, LEAST, MOST_TOKENS)
        return [[token, short(mean), count] for token, mean, count in found]

    def _keys(self, documents: Any, places: Any) -> Any:
        return documents * np.int64(2**32) + places + 1

    def _rows(self, documents: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the rows of tokens of documents, -1 for tokens that are no samples."""
        keys = self._keys(documents, places)
        found = np.searchsorted(self._keys_N, keys).clip(max=len(self._keys_N) - 1)
        return np.where(self._keys_N[found] == keys, self._order_N[found], -1)


def seen_of(data: ResidentDataModule, samples: Any, labels: Tensor) -> Seen:
    """Return the final samples of a data module as they are shown."""
    if isinstance(data, ActivationDataModule):
        return Texts(data, data.final, samples)
    numbers_N = labels.cpu().numpy().astype(np.int64)
    values = np.unique(numbers_N)
    named_labels = {}
    if 1 < len(values) <= MOST_LABELS:
        named_labels["label"] = (np.searchsorted(values, numbers_N), [*map(str, values)])
    shape = tuple(size for size in data.sample_shape if size != 1)
    if is_image(data.sample_shape):
        return Images(samples, named_labels, (shape[0], shape[1]), data.normalizer)
    return Vectors(samples, named_labels)


def readable(vocabulary: Sequence[str], special: Collection[int]) -> list[str]:
    """Return the texts of tokens with a space in front of words.

    WordPiece keeps no spaces, and writes ``##`` in front of what continues a word. There, a space
    is put in front of other tokens that start with a letter or digit.

    Args:
        vocabulary: text of each token id.
        special: token ids that are no text.
    """
    if sum(text.startswith("##") for text in vocabulary) < len(vocabulary) / 20:
        return list(vocabulary)
    return [
        text.removeprefix("##")
        if text.startswith("##") or token in special or not text[:1].isalnum()
        else f" {text}"
        for token, text in enumerate(vocabulary)
    ]


def named(label: tuple[np.ndarray, Sequence[str]], sample: int) -> str:
    """Return the name of a sample's value of a label; it is empty without one."""
    numbers_N, names = label
    number = int(numbers_N[sample])
    return names[number][:MOST_LABELS] if number >= 0 else ""


def short(value: Any) -> float:
    """Return a number with four digits that count, so that pages stay small."""
    return float(f"{float(value):.4g}")


def shortened(values: Any) -> list[float]:
    """Return ``short`` of each number of an array or tensor."""
    return [value and short(value) for value in values.tolist()]


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", optimize=False)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
