"""The checkpoints of a run, and where an interrupted one goes on."""

import io
import logging
import os
import random
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from implicit_em.base import interruption
from implicit_em.base.errors import Interrupted
from implicit_em.base.files import whole

log = logging.getLogger(__name__)

OWN = "implicit_em"
"""Key of what Lightning's checkpoint does not hold by itself."""


class LastCheckpoint(Checkpoint):
    """Saves the state after every epoch and now and then within one, and keeps the one before it.

    Where a signal asks the run to end, it saves and ends the run.

    Args:
        last: path of the checkpoint; the one before it has ``previous`` in its place.
        run: whose it is.
        steps: most optimizer steps between two checkpoints, in whole blocks of steps; ``None`` for
            any number.
        minutes: most minutes between two, likewise.

    """

    takes_blocks = True
    """It needs no batch by itself: the end of a block is early enough."""

    def __init__(
        self, last: Path, run: str, steps: int | None = None, minutes: float | None = None
    ) -> None:
        self.last = last
        self.run = run
        self.steps = steps
        self.minutes = minutes
        self.train_seconds = 0.0
        """For how long the run has trained, before it was broken off and since."""
        self._since = self._saved_at = time.monotonic()
        self._saved_step = self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count."""
        interruption.listen()
        # A schedule that counts all steps has had the loader set up before the checkpoint was read.
        trainer.fit_loop._load_combined_loader_states()
        self._since = self._saved_at = time.monotonic()
        self._saved_step = self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the run, where a signal has asked for it since the last block: all is saved.

        Raises:
            Interrupted: if one has.

        """
        stop_if_requested(trainer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save where it is time to; after the last block the end of the epoch is about to do so.

        Raises:
            Interrupted: after saving, if a signal has asked for it.

        """
        block, self._step = trainer.global_step - self._step, trainer.global_step
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        number = _signal(trainer)
        if number or self._is_due(trainer, block):
            self._save(trainer)
        if number:
            raise Interrupted(number)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save."""
        self._save(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note random numbers, the time, and whether another callback has stopped the run."""
        self._count()
        checkpoint[OWN] = {
            "run": self.run,
            "random_state": _random_state(),
            "train_seconds": self.train_seconds,
            "stopped": trainer.should_stop,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take them up again."""
        _set_random_state(checkpoint[OWN]["random_state"])
        self.train_seconds = checkpoint[OWN]["train_seconds"]
        trainer.should_stop = checkpoint[OWN]["stopped"]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the last seconds."""
        self._count()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Count the last seconds."""
        self._count()

    def _count(self) -> None:
        now = time.monotonic()
        self.train_seconds += now - self._since
        self._since = now

    def _is_due(self, trainer: pl.Trainer, block: int) -> bool:
        due = bool(self.steps and self._step + block > self._saved_step + self.steps)
        due |= bool(self.minutes and time.monotonic() > self._saved_at + 60 * self.minutes)
        if trainer.world_size > 1:
            return trainer.strategy.reduce_boolean_decision(due, all=False)
        return due

    def _save(self, trainer: pl.Trainer) -> None:
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.last)  # writes nothing, but takes part
            return
        trainer.save_checkpoint(newest(self.last))
        if self.last.exists():
            os.replace(self.last, previous(self.last))
        os.replace(newest(self.last), self.last)


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside where it belongs, then renames it.

    Lightning's own goes through the temporary directory, which may be another disk, and a full one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write it.

        Raises:
            WriteError: if it cannot be written.

        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with whole(Path(path)) as temporary:
            temporary.write_bytes(content.getbuffer())


def stop_if_requested(trainer: pl.Trainer) -> None:
    """End the run, in all of its processes, where a signal to one of them has asked for it.

    Raises:
        Interrupted: if one has.

    """
    if number := _signal(trainer):
        raise Interrupted(number)


def _signal(trainer: pl.Trainer) -> signal.Signals | None:
    """Return the signal that has asked the run to end, in any of its processes."""
    number = interruption.received() or 0
    if trainer.world_size > 1:
        own = torch.tensor(number, device=trainer.strategy.root_device)
        number = int(trainer.strategy.reduce(own, reduce_op="max"))
    return signal.Signals(number) if number else None


def _random_state() -> dict[str, Any]:
    """Return the state of all generators of the process, as what a safe checkpoint may hold."""
    numbers: Any = np.random.get_state()  # noqa: NPY002  (others draw from it)
    name, keys, *rest = numbers
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [name, keys.tolist(), *rest],
        "python": random.getstate(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def previous(last: Path) -> Path:
    """Return the path of the checkpoint before the last."""
    return last.with_stem("previous")


def newest(last: Path) -> Path:
    """Return the path of a checkpoint that is about to be the last."""
    return last.with_stem("newest")


def resume_point(last: Path, run: str, epochs: int) -> tuple[Path | None, int]:
    """Return the checkpoint that a run goes on from and the epochs it has done, or none and 0.

    A damaged checkpoint, or another run's, is said in a line, and the one before it used.
    Nothing is unpickled.

    Args:
        last: path of the last checkpoint.
        run: whose it must be.
        epochs: for which the run has a history; a checkpoint beyond them would leave a gap.

    """
    for path in (newest(last), last, previous(last)):
        if not path.exists():
            continue
        try:
            whose, done = _contents(path)
        except Exception as error:  # a damaged file may bring about any
            log.warning("%s cannot be read (%s): not used", path, type(error).__name__)
            continue
        if whose != run:
            log.warning("%s is another run's: not used", path)
        elif done <= epochs:
            return path, done
    return None, 0


def _contents(path: Path) -> tuple[str, int]:
    """Return whose a checkpoint is, and how many epochs it has done."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():  # torch does not look at its checksums
            raise zipfile.BadZipFile(damaged)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    own = checkpoint[OWN]
    if not {"random_state", "train_seconds", "stopped"} <= own.keys():
        raise KeyError(OWN)
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return own["run"], epochs
