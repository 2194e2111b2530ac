"""What a token looks like on a page: in its document, with the activation on each token."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from implicit_em.language.token_classes import classes_of
from implicit_em.trained.activity import Unit
from implicit_em.viewer.seen import TOKEN, Seen, short, shortened

if TYPE_CHECKING:
    from implicit_em.language.activations import ActivationDataModule

BEFORE, AFTER = 24, 12
"""Number of tokens that are shown in front of a token, and after it."""
LEAST = 5
"""Tokens that occur less often do not count as those that raise a unit."""
MOST_TOKENS = 8
"""Largest number of tokens that raise a unit."""


class Texts(Seen):
    """Tokens of a store, shown in their documents.

    Args:
        data: data module of the store.
        samples: its final samples.
    """

    kind = "texts"

    def __init__(self, data: "ActivationDataModule", samples: Any) -> None:
        size, store = len(samples), data.store
        self.token_N, self.document_N, self.place_N = (
            data.column(name, data.final)[:size].numpy().astype(np.int64)
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
        explained = "".join(f", explaining {site}" for site in data.parts if site not in data.sites)
        self.place = f" of {data.site} in {store.manifest.model['name']}{explained}"
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


def raised_by(
    values_E: np.ndarray, tokens_E: np.ndarray, counts_V: np.ndarray, least: int, most: int
) -> list[tuple[int, float, int]]:
    """Return the tokens with the largest mean activation: id, mean, and how often they occur.

    Args:
        values_E: activations.
        tokens_E: token id of each entry.
        counts_V: how often each token occurs, silent samples included.
        least: tokens that occur less often are left out.
        most: largest number of tokens.
    """
    tokens_U, places_E = np.unique(tokens_E, return_inverse=True)
    means_U = np.bincount(places_E, weights=values_E) / counts_V[tokens_U]
    means_U[counts_V[tokens_U] < least] = 0
    order_U = np.argsort(-means_U, kind="stable")[:most]
    return [
        (int(tokens_U[u]), float(means_U[u]), int(counts_V[tokens_U[u]]))
        for u in order_U
        if means_U[u] > 0
    ]


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
