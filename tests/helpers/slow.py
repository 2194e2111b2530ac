"""A callback that makes a run last, importable on a node."""

import os
import time

import pytorch_lightning as pl


class Slow(pl.Callback):
    """Waits after each batch, for as many seconds as the environment says."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        time.sleep(float(os.environ.get("SECONDS_A_BATCH", "0")))
