"""Which model goes with which loss and optimizer."""

import re

from helpers.paths import ROOT

MODEL_OF_LOSS = {
    loss.group(1): path.stem
    for path in sorted((ROOT / "conf" / "model").glob("*.yaml"))
    if (loss := re.search("override /loss: (?!lse_var_tc)(.+)", path.read_text()))
}
"""A model for each loss that the encoder alone has no use for."""
MODEL_OF_OPTIMIZER = {"em": "mixture"}
"""A model for each optimizer that fits no other."""
