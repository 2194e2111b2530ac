"""What this process has read: data modules of one source share its tensors."""

from collections.abc import Callable
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from implicit_em.data.checks import check_splits

lock = RLock()
"""Held while data are prepared, read or copied, so that no two threads do the same."""


class Source(NamedTuple):
    """Where data come from: what is read from equal sources is the same.

    Args:
        what: all that decides what is read, but for the content of the files.
        files: the state of these. Of one ``what`` only the data of the last state are kept.

    """

    what: Any
    files: Any


class Splits:
    """The splits of a data set, once on each device that asked for them; not to be written to.

    Args:
        read: returns the samples ``(N, ...)`` and labels ``(N,)`` of the training or test split.

    Raises:
        ConfigError: if they cannot be trained on.

    """

    def __init__(self, read: Callable[[bool], tuple[Tensor, Tensor]]) -> None:
        self._tensors: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}
        splits = {name: read(name == "train") for name in ("train", "test")}
        check_splits(splits)
        for name, (samples, labels) in splits.items():
            self.sample_shape = tuple(samples.shape[1:])
            self.home = samples.device
            self._tensors[name, self.home] = samples.flatten(1), labels

    def on(self, device: torch.device, name: str) -> tuple[Tensor, Tensor]:
        """Return the samples ``(N, D)`` and labels of a split on a device."""
        with lock:
            if (name, device) not in self._tensors:
                samples, labels = self._tensors[name, self.home]
                self._tensors[name, device] = samples.to(device), labels.to(device)
            return self._tensors[name, device]


_known: list[tuple[Source, Splits]] = []


def known(source: Source | None) -> Splits | None:
    """Return what was read from a source; ``None`` has none that could be shared."""
    with lock:
        return next((splits for other, splits in _known if other == source), None)


def read_once(source: Source | None, read: Callable[[bool], tuple[Tensor, Tensor]]) -> Splits:
    """Return what was read from a source, or read it now."""
    with lock:
        splits = known(source)
        if splits is None:
            splits = Splits(read)
            if source is not None:
                _known[:] = [entry for entry in _known if entry[0].what != source.what]
                _known.append((source, splits))
        return splits
