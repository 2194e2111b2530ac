"""Classes of tokens that their text alone decides."""

import unicodedata
from collections.abc import Collection, Sequence

import numpy as np


def classes_of(vocabulary: Sequence[str], special: Collection[int]) -> dict[str, np.ndarray]:
    """Return which of V token ids belong to each class, by its name, bool, shape ``(V,)``.

    - ``digit``: there are only digits (``str.isdigit``).
    - ``capital``: the first letter is upper or title case.
    - ``punctuation``: there is only punctuation, Unicode's categories P; symbols such as ``+`` and
      ``$`` are none.

    Spaces in front do not count. A text that has nothing else belongs to no class.

    Args:
        vocabulary: the text of each token id, with a space in front of a word.
        special: token ids that are no text; they belong to no class.
    """
    classes = {"digit": str.isdigit, "capital": _is_capital, "punctuation": _is_punctuation}
    texts = ["" if token in special else text.lstrip(" ") for token, text in enumerate(vocabulary)]
    return {name: np.array([*map(belongs, texts)], bool) for name, belongs in classes.items()}


def newline_next(
    vocabulary: Sequence[str],
    ids_T: np.ndarray,
    starts_N: np.ndarray,
    document_B: np.ndarray,
    place_B: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether the next token has a newline, and where this is defined; bool, ``(B,)``.

    It is not defined for special tokens and for the last token of a document; there the first
    array is ``False``.

    Args:
        vocabulary: the text of each token id.
        ids_T: token ids of all documents, one after another.
        starts_N: place of each document's first token in ``ids_T``, and the end of the last one.
        document_B: number of each token's document.
        place_B: place of each token in its document; -1 for special tokens.
    """
    newline_V = np.array(["\n" in text for text in vocabulary], bool)
    next_B = starts_N[document_B] + place_B + 1
    defined_B = (place_B >= 0) & (next_B < starts_N[document_B + 1])
    found_B = np.zeros(len(place_B), bool)
    found_B[defined_B] = newline_V[ids_T[next_B[defined_B]]]
    return found_B, defined_B


def _is_capital(text: str) -> bool:
    # Of a single letter, "title case" takes in upper case.
    return next(filter(str.isalpha, text), "").istitle()


def _is_punctuation(text: str) -> bool:
    return bool(text) and all(unicodedata.category(character)[0] == "P" for character in text)
