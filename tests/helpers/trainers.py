"""Trainers of Lightning, as a user builds them."""

import pytest
import pytorch_lightning as pl

WITHOUT_REMARKS = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]
"""Marks of tests for which it does not matter what a Trainer remarks on."""


def bare_trainer(**flags):
    """A Trainer on a CPU that shows and saves nothing, unless a flag says otherwise."""
    shows = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    return pl.Trainer(**{"accelerator": "cpu", **dict.fromkeys(shows, False), **flags})
