"""The times of a run's epochs, written by a callback and read after it."""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from implicit_em.base.files import write_json

CLOCK_FILE = "clock.json"
WITH_CLOCK = "+callbacks.clock._target_=benchmarks.clock.EpochClock"
"""Override that adds the clock to a run."""


class EpochClock(Callback):
    """Writes when each epoch began and how long the curves took, beside the run's other files.

    An epoch lasts from its own start to the start of the next, so that whatever happens in between
    counts.
    """

    def __init__(self) -> None:
        self._boundaries: list[float] = []
        self._curves: dict[int, float] = {}
        self._curves_start = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        """Begin an epoch, and end the one before."""
        self._boundaries.append(time.perf_counter())

    def on_validation_start(self, *_: Any) -> None:
        """Begin a measurement of the curves."""
        self._curves_start = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """End a measurement of the curves."""
        self._curves[trainer.current_epoch] = time.perf_counter() - self._curves_start

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the last epoch and write the file."""
        self._boundaries.append(time.perf_counter())
        epochs = range(len(self._boundaries) - 1)
        on_cuda = pl_module.device.type == "cuda"
        content = {
            "boundaries": self._boundaries,
            "curves": [self._curves.get(epoch, 0.0) for epoch in epochs],
            "interval": trainer.check_val_every_n_epoch,
            "device_memory": torch.cuda.max_memory_allocated() if on_cuda else None,
        }
        write_json(Path(trainer.default_root_dir) / CLOCK_FILE, content)


def read_clocks(directory: Path) -> list[dict[str, Any]]:
    """Return what the clocks of all runs below a directory wrote."""
    return [json.loads(path.read_text()) for path in sorted(directory.rglob(CLOCK_FILE))]


def epoch_seconds(clock: Mapping[str, Any]) -> list[float]:
    """Return the seconds of each epoch after the first."""
    return [end - start for start, end in itertools.pairwise(clock["boundaries"][1:])]


def seconds_a_run_and_epoch(clocks: Sequence[Mapping[str, Any]]) -> float:
    """Return the time in which any run trained, over the epochs that were trained in it.

    Each run's first and last epochs do not count: the one begins while others still start, the
    other ends while others measure and save what they have trained.

    Args:
        clocks: of runs of one process, in turn or at the same time.
    """
    spans = sorted((clock["boundaries"][1], clock["boundaries"][-2]) for clock in clocks)
    busy, until = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / sum(len(clock["boundaries"]) - 3 for clock in clocks)
