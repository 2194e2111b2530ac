"""The checkpoint of the last epoch, and where an interrupted run goes on."""

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from implicit_em.files import whole

log = logging.getLogger(__name__)


class LastCheckpoint(Checkpoint):
    """Saves the state after every epoch, whole at any time, and keeps the one before it.

    Args:
        last: path of the checkpoint; the one before it has ``previous`` in its place.

    """

    def __init__(self, last: Path) -> None:
        self.last = last

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save."""
        with whole(self.last) as temporary:
            trainer.save_checkpoint(temporary)
            if self.last.exists():
                os.replace(self.last, previous(self.last))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note what Lightning does not: random numbers, and whether another callback stopped."""
        checkpoint["random_state"] = torch.get_rng_state()
        checkpoint["stopped"] = trainer.should_stop

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take them up again."""
        torch.set_rng_state(checkpoint["random_state"])
        trainer.should_stop = checkpoint["stopped"]


def previous(last: Path) -> Path:
    """Return the path of the checkpoint before the last."""
    return last.with_stem("previous")


def resume_point(last: Path, epochs: int) -> tuple[Path | None, int]:
    """Return the checkpoint that a run goes on from and the epochs that it holds, or none and 0.

    Args:
        last: path of the last checkpoint.
        epochs: for which the run has a history; a checkpoint beyond them would leave a gap.

    """
    for path in (last, previous(last)):
        if not path.exists():
            continue
        try:
            done = torch.load(path, map_location="cpu", weights_only=True)["epoch"] + 1
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            log.warning("%s cannot be read (%s): not used", path, type(error).__name__)
            continue
        if done <= epochs:
            return path, done
    return None, 0
