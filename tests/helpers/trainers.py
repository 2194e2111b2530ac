"""Trainers of Lightning, as a user builds them."""

import pytorch_lightning as pl


def bare_trainer(**flags):
    """A Trainer on a CPU that shows and saves nothing, unless a flag says otherwise."""
    shows = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    return pl.Trainer(**{"accelerator": "cpu", **dict.fromkeys(shows, False), **flags})
