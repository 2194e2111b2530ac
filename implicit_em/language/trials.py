"""What features do on a text of the reader's own, and what they make a language model write."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from implicit_em.language.models import CausalModel, LanguageModel
from implicit_em.language.splicing import replacing
from implicit_em.language.steering import Steering
from implicit_em.models.normalizing import Normalized
from implicit_em.viewer.trying import active

if TYPE_CHECKING:
    from implicit_em.language.inside import Inside

WRITTEN = 32
"""Number of tokens that a language model writes."""
MOST_CHARACTERS = 2_000
"""Largest length of a text."""


class TextTrial:
    """Encodes the tokens of a text, as the store of the run was harvested.

    Args:
        coder: the model on raw vectors.
        inside: the store, and which of its tokens are kept.
        language_model: the language model that the store was harvested from.
    """

    def __init__(self, coder: Normalized, inside: "Inside", language_model: LanguageModel) -> None:
        self.coder, self.data, self.language_model = coder, inside.data, language_model
        manifest = self.data.store.manifest
        self.splice = inside.splice(self.data.columns[0])
        self.prefix, self.suffix = manifest.prefix, manifest.suffix
        self.room = manifest.settings["context"]["length"] - len(self.prefix) - len(self.suffix)
        self.dtype = getattr(torch, manifest.dtype)

    def __call__(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the token ids of ``text``, and the features of each; ``None`` if left out."""
        text = _text_of(question)
        own = self.language_model.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = [*self.prefix, *own[: self.room], *self.suffix]
        ids_1L = torch.tensor([ids])
        mask_1L = torch.ones_like(ids_1L)
        with self.language_model.reading(self.data.columns) as found:
            self.language_model.forward(ids_1L, mask_1L)
        kept_L = self.splice.kept(ids_1L, mask_1L, found)[0].tolist()
        vectors_LD = torch.cat([found[site][0] for site in self.data.sites], dim=-1)
        features = active(self.coder, vectors_LD.to(self.dtype))
        shown = [one if kept else None for one, kept in zip(features, kept_L, strict=True)]
        return {"ids": ids, "features": shown, "cut": len(own) > self.room}


class SteerTrial:
    """Continues a text: by the language model as it is, and steered by a unit of the run.

    Args:
        steering: the run.
        language_model: the language model that the store was harvested from.
    """

    def __init__(self, steering: Steering, language_model: CausalModel) -> None:
        self.steering, self.language_model = steering, language_model
        self.clean = ("", "")

    def __call__(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return how ``text`` goes on, ``clean`` and ``pulled``; see ``Steering.replacement``."""
        text = _text_of(question)
        units = {question.get("unit", -1): question.get("strength", "")}
        function = self.steering.replacement(units, question.get("how", "add"))
        write = partial(self.steering.write, self.language_model, text, WRITTEN)
        if self.clean[0] != text:
            self.clean = (text, write())
        with replacing(self.language_model, self.steering.splice, function):
            return {"clean": self.clean[1], "pulled": write()}


def _text_of(question: Mapping[str, Any]) -> str:
    text = question.get("text")
    if not isinstance(text, str) or not 0 < len(text) <= MOST_CHARACTERS:
        raise ValueError(f"text: needs 1 to {MOST_CHARACTERS:,} characters")
    return text
