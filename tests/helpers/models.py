"""The models, and which goes with which loss and optimizer."""

import re
from functools import partial

import pytest

from helpers.paths import ROOT
from implicit_em import models

MODELS = [model for model in vars(models).values() if hasattr(model, "weight")]
"""All classes of models."""
TIED = [
    partial(cls, tied=True)
    for cls in MODELS
    if issubclass(cls, models.Dictionary) and cls is not models.SpikeSlab
]
"""Those that may be tied or not, tied."""
OPTIONS = {models.SpikeSlab: {"temperature": 1e-3}}
"""Arguments with which a model has activations for small samples, if the defaults have none."""
MODEL_OF_LOSS = {
    loss.group(1): path.stem
    for path in sorted((ROOT / "conf" / "model").glob("*.yaml"))
    if (loss := re.search("override /loss: (?!lse_var_tc)(.+)", path.read_text()))
}
"""A model for each loss that the encoder alone has no use for."""
MODEL_OF_OPTIMIZER = {"em": "mixture"}
"""A model for each optimizer that fits no other."""
REPRESENTATIVES = ("encoder", "derived", "derived with l0", "l1", "batch_topk", "tied_topk")
REPRESENTATIVES += ("jump_relu", "gated", "spike_slab", "matryoshka")
"""One family for each class of models, and for each way in which ``model.l0`` steers a model."""


def mainly(families, fast=REPRESENTATIVES):
    """Return the parameters of a crossing: all families, of which the default run takes some."""
    return [
        pytest.param(family, marks=() if family in fast else pytest.mark.slow)
        for family in families
    ]
