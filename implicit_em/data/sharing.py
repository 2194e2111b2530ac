"""Data that this process has read: data modules with equal sources share their tensors."""

from collections.abc import Callable
from copy import copy
from threading import RLock
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from implicit_em.data.checks import check_splits
from implicit_em.data.on_disk import Samples, SamplesOnDisk, all_normalized
from implicit_em.models.normalizing import Normalizer

lock = RLock()
"""Lock to hold while data are prepared, read or copied: only one thread does it."""


class Splits:
    """The splits of a data set, with one copy on each device that uses them. Do not write to them.

    ``read(train)`` returns samples ``(N, ...)`` and labels ``(N,)``.
    """

    normalizer: Normalizer | None = None
    """Normaliser that was applied to the samples."""
    remarked = False
    """Whether the remarks on the samples have been made."""

    def __init__(self, read: Callable[[bool], tuple[Samples, Tensor]]) -> None:
        self._tensors: dict[tuple[str, torch.device], tuple[Samples, Tensor]] = {}
        splits = {name: read(name == "train") for name in ("train", "test")}
        check_splits(splits)
        for name, (samples, labels) in splits.items():
            self.sample_shape = tuple(samples.shape[1:])
            self.home = samples.device
            self._tensors[name, self.home] = samples.flatten(1), labels

    def normalized(self, normalizer: Normalizer) -> "Splits":
        """Return the splits with normalised samples."""
        splits = copy(self)
        splits.normalizer = normalizer
        own = {key: value for key, value in self._tensors.items() if key[1] == self.home}
        splits._tensors = {key: (all_normalized(x, normalizer), y) for key, (x, y) in own.items()}
        return splits

    def check(self) -> None:
        """Raise ``DamagedError`` if a file from which samples are read is not as it was."""
        for samples, _ in tuple(self._tensors.values()):
            if isinstance(samples, SamplesOnDisk):
                samples.check()

    def on(self, device: torch.device, name: str) -> tuple[Samples, Tensor]:
        """Return the samples ``(N, D)`` and labels of a split on a device."""
        with lock:
            if (name, device) not in self._tensors:
                samples, labels = self._tensors[name, self.home]
                self._tensors[name, device] = samples.to(device), labels.to(device)
            return self._tensors[name, device]


_known: list[tuple[Any, ref[Splits]]] = []
"""What was read from each source, while a module uses it."""
_last: list[Splits] = []
"""What was asked for last, which stays although no module may use it now."""


def known(source: Any) -> Splits | None:
    """Return the splits that were read from a source; ``None`` if there are none."""
    with lock:
        return next((found for other, at in _known if other == source and (found := at())), None)


def read_once(source: Any, make: Callable[[], Splits]) -> Splits:
    """Return the splits of a source; make them if there are none, or the source is ``None``."""
    with lock:
        splits = (None if source is None else known(source)) or make()
        if source is not None:
            _known[:] = [entry for entry in _known if entry[1]() not in (None, splits)]
            _known.append((source, ref(splits)))
            _last[:] = [splits]
        return splits
