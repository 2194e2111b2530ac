"""What a run's features do on an input of the reader's own."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implicit_em.metrics.feature_grid import is_image
from implicit_em.models.normalizing import Normalized
from implicit_em.trained.reading import Trained
from implicit_em.viewer.seen import short

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
        return {"features": active(self.coder, torch.from_numpy(pixels)[None])[0]}


def trials_of(found: Trained, lm: str | None) -> dict[str, Trial]:
    """Return what can be tried with a run, by names: ``encode`` and, if possible, ``steer``.

    Args:
        found: the run.
        lm: where the language model is; ``None`` for the place that ``conf/lm`` names.

    Raises:
        ConfigError: if its data are neither images nor of a language model, or the language model
            is not there, or another.
    """
    if is_image(found.data.sample_shape):
        return {"encode": ImageTrial(found)}
    trials: dict[str, Trial] = found.data.inside("serve, but for images", lm).trials(found)
    return trials


@torch.no_grad()
def active(coder: Normalized, x_ND: Tensor) -> list[list[list[float]]]:
    """Return the features of each sample that are active, the strongest first."""
    found = []
    for codes_K in coder.encode(x_ND):
        values_M, units_M = codes_K.topk(min(MOST_FEATURES, len(codes_K)))
        pairs = zip(units_M.tolist(), values_M, strict=True)
        found.append([[unit, short(value)] for unit, value in pairs if value > 0])
    return found
