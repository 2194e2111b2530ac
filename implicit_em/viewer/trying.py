"""What a run's features do on an input of the reader's own, and what they make a model write."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implicit_em.base.errors import ConfigError
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.effects import causal_model
from implicit_em.language.model_files import model_of
from implicit_em.language.models import CausalModel, LanguageModel
from implicit_em.language.splicing import Splice, replacing
from implicit_em.language.steering import Steering
from implicit_em.metrics.feature_grid import is_image
from implicit_em.trained.reading import Trained
from implicit_em.training.decoding import Coder
from implicit_em.viewer.seen import short

WRITTEN = 32
"""Number of tokens that a language model writes."""
MOST_CHARACTERS = 2_000
"""Largest length of a text."""
MOST_FEATURES = 50
"""Largest number of features that are shown of a token or an image."""


Trial = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Function from a decoded request to the answer. It raises ``ValueError`` for an input that it
cannot take."""


class ImageTrial:
    """Encodes a drawn image.

    Args:
        found: the run.
    """

    def __init__(self, found: Trained) -> None:
        self.coder, self.size = found.coder, found.data.in_features

    def __call__(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the features of ``pixels``: D numbers from 0 to 1, row by row."""
        pixels = np.asarray(question.get("pixels", []), dtype=np.float64)
        if pixels.shape != (self.size,) or not ((pixels >= 0) & (pixels <= 1)).all():
            raise ValueError(f"pixels: needs {self.size} numbers from 0 to 1")
        return {"features": _active(self.coder, torch.from_numpy(pixels)[None])[0]}


class TextTrial:
    """Encodes the tokens of a text, as the store of the run was harvested.

    Args:
        coder: the model on raw vectors.
        data: its samples.
        language_model: the language model that the store was harvested from.
    """

    def __init__(
        self, coder: Coder, data: ActivationDataModule, language_model: LanguageModel
    ) -> None:
        self.coder, self.data, self.language_model = coder, data, language_model
        manifest = data.store.manifest
        self.rule = Splice(data.columns[0], data.rule, manifest.special_tokens)
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
        kept_L = self.rule.kept(ids_1L, mask_1L, found)[0].tolist()
        vectors_LD = torch.cat([found[site][0] for site in self.data.sites], dim=-1)
        features = _active(self.coder, vectors_LD.to(self.dtype))
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


def trials_of(found: Trained, lm: str | None) -> dict[str, Trial]:
    """Return what can be tried with a run, by names: ``encode`` and, if possible, ``steer``.

    Args:
        found: the run.
        lm: where the language model is; ``None`` for the place that ``conf/lm`` names.

    Raises:
        ConfigError: if its data are neither images nor of a language model, or the language model
            is not there, or another.
    """
    data = found.data
    if is_image(data.sample_shape):
        return {"encode": ImageTrial(found)}
    if not isinstance(data, ActivationDataModule):
        raise ConfigError("serve: allowed for images and activations of language models")
    settings = model_of(data.store.manifest, lm)
    if (model := causal_model(settings)) is None:
        reader = LanguageModel.load(settings, "cpu")
        reader.stop_after(data.columns)
        return {"encode": TextTrial(found.coder, data, reader)}
    trials: dict[str, Trial] = {"encode": TextTrial(found.coder, data, model)}
    with suppress(ConfigError):
        trials["steer"] = SteerTrial(Steering.of(found), model)
    return trials


@torch.no_grad()
def _active(coder: Coder, x_ND: Tensor) -> list[list[list[float]]]:
    """Return the features of each sample that are active, the strongest first."""
    found = []
    for codes_K in coder.encode(x_ND):
        values_M, units_M = codes_K.topk(min(MOST_FEATURES, len(codes_K)))
        pairs = zip(units_M.tolist(), values_M, strict=True)
        found.append([[unit, short(value)] for unit, value in pairs if value > 0])
    return found
