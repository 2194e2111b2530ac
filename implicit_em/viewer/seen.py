"""What a sample looks like on a page: an image, or only a number."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import Normalize
from PIL import Image
from torch import Tensor

from implicit_em.data import ResidentDataModule, as_unit_float
from implicit_em.metrics.feature_grid import RED_WHITE_BLUE, is_image
from implicit_em.trained.activity import Unit

TOKEN = "token: "
"""What the names of classes of tokens begin with, among labels."""
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
    place = ""
    """Where the samples are from, as the end of a sentence on the page."""

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


def seen_of(data: ResidentDataModule, samples: Any, labels: Tensor) -> Seen:
    """Return the final samples of a data module as they are shown."""
    own: Seen | None = data.seen(samples, labels)
    if own is not None:
        return own
    numbers_N = labels.cpu().numpy().astype(np.int64)
    values = np.unique(numbers_N)
    named_labels = {}
    if 1 < len(values) <= MOST_LABELS:
        named_labels["label"] = (np.searchsorted(values, numbers_N), [*map(str, values)])
    shape = tuple(size for size in data.sample_shape if size != 1)
    if is_image(data.sample_shape):
        return Images(samples, named_labels, (shape[0], shape[1]), data.normalizer)
    return Vectors(samples, named_labels)


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
