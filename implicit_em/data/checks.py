"""Checks of the data that are read: samples, labels and splits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from implicit_em.base.errors import ConfigError
from implicit_em.data.on_disk import Samples

VALUES = 2**24
"""Number of values to check at a time: samples in a file need not fit into memory."""


def check_splits(splits: Mapping[str, tuple[Samples, Tensor]]) -> None:
    """Refuse splits that cannot be used for training or measurement."""
    for name, (samples, labels) in splits.items():
        if isinstance(samples, Tensor):  # a file is checked when it is opened
            check_split(f"{name} split", samples, labels)
        elif len(samples) < 2:
            raise ConfigError(f"{name} split: {len(samples)} samples; at least 2 are needed")
    if len(shapes := {tuple(samples.shape[1:]) for samples, _ in splits.values()}) > 1:
        raise ConfigError(f"samples of unlike shapes: {' and '.join(map(str, sorted(shapes)))}")
    if len({samples.dtype == torch.uint8 for samples, _ in splits.values()}) > 1:
        raise ConfigError("one split is of uint8, which is scaled to [0, 1], and the other is not")


def check_split(subject: str, samples: Samples, labels: Tensor) -> None:
    """Refuse samples that cannot be trained on, and labels of another number or kind."""
    if len(samples.shape) < 2:
        raise ConfigError(
            f"{subject}: samples of shape {tuple(samples.shape)}; allowed is (N, ...), of two "
            "dimensions at least"
        )
    count, shape = len(samples), tuple(samples.shape[1:])
    if len(labels) != count:
        raise ConfigError(f"{subject}: {count} samples, but {len(labels)} labels")
    check_whole_numbers(subject, labels)
    if count < 2 or samples.shape.numel() == 0:
        raise ConfigError(
            f"{subject}: {count} samples of shape {shape}; at least 2 are needed, none empty"
        )
    if not (samples.dtype.is_floating_point or samples.dtype == torch.uint8):
        raise ConfigError(
            f"{subject}: samples of {samples.dtype}; allowed are uint8, which is scaled to "
            "[0, 1], and floating point"
        )
    if samples.dtype.is_floating_point:
        _check_finite(subject, samples)


def _check_finite(subject: str, samples: Samples) -> None:
    size = max(1, VALUES // samples.shape[1:].numel())
    for number, rows in enumerate(samples.split(size)):
        finite = rows.isfinite()
        if not finite.all():
            row, *place = first = (~finite).nonzero()[0].tolist()
            raise ConfigError(
                f"{subject}: {rows[tuple(first)].item()} at {[number * size + row, *place]}; all "
                "must be finite"
            )


def check_whole_numbers(subject: str, labels: Tensor) -> None:
    """Refuse labels that are not whole numbers of shape ``(N,)``."""
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        raise ConfigError(
            f"{subject}: labels of shape {tuple(labels.shape)} and {labels.dtype}; allowed are "
            "whole numbers of shape (N,)"
        )


def check_labels(name: str, labels: Tensor, classes: Sequence[Any]) -> None:
    """Refuse labels without a class in the data set."""
    wrong = (labels < 0) | (labels >= len(classes))
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ConfigError(
            f"{name} split: label {labels[first].item()} of sample {first}; the data set has the "
            f"classes 0 to {len(classes) - 1}"
        )
