"""What data must be like to be trained on and measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from implicit_em.errors import ConfigError


def check_splits(splits: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Refuse splits that cannot be trained on, or not be measured.

    Args:
        splits: samples ``(N, ...)`` and labels ``(N,)`` by the name of the split.

    Raises:
        ConfigError: naming the split and the first place that is wrong.

    """
    for name, (samples, labels) in splits.items():
        count, shape = len(samples), tuple(samples.shape[1:])
        if len(labels) != count:
            raise ConfigError(f"{name} split: {count} samples, but {len(labels)} labels")
        if count < 2 or samples.numel() == 0:
            raise ConfigError(
                f"{name} split: {count} samples of shape {shape}; at least 2 are needed, none empty"
            )
        if not (samples.is_floating_point() or samples.dtype == torch.uint8):
            raise ConfigError(
                f"{name} split: samples of {samples.dtype}; allowed are uint8, which is scaled to "
                "[0, 1], and floating point"
            )
        if samples.is_floating_point() and not (finite := samples.isfinite()).all():
            first = tuple((~finite).nonzero()[0].tolist())
            raise ConfigError(
                f"{name} split: {samples[first].item()} at {list(first)}; all must be finite"
            )
    if len(shapes := {tuple(samples.shape[1:]) for samples, _ in splits.values()}) > 1:
        raise ConfigError(f"samples of unlike shapes: {' and '.join(map(str, sorted(shapes)))}")


def check_labels(name: str, labels: Tensor, classes: Sequence[Any]) -> None:
    """Refuse labels that are none of a data set's classes.

    Args:
        name: of the split.
        labels: shape ``(N,)``.
        classes: of the data set, in the order of their labels.

    Raises:
        ConfigError: naming the first of them.

    """
    wrong = (labels < 0) | (labels >= len(classes))
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ConfigError(
            f"{name} split: label {labels[first].item()} of sample {first}; the data set has the "
            f"classes 0 to {len(classes) - 1}"
        )
