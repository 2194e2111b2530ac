"""A callback that sends its own process a signal."""

import os
from pathlib import Path

import pytorch_lightning as pl


class Kill(pl.Callback):
    """Sends a signal to the process of the run of seed 2, as its fourth epoch begins, once."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run = Path(trainer.default_root_dir)
        noted = run.parents[1] / "signalled"
        settings = (run / ".hydra" / "config.yaml").read_text().splitlines()
        if trainer.current_epoch == 3 and "seed: 2" in settings and not noted.exists():
            noted.touch()
            os.kill(os.getpid(), self.number)
