"""What a training step costs: a wide layer more than a narrow one, a decoder more than none."""

from pathlib import Path

import pytest
import torch
from conftest import ROOT

from implicit_em.compare import costs
from implicit_em.compare.costs import peak_memory
from implicit_em.compare.protocol import read_protocol
from implicit_em.compare.stages import Stages, compose_settings


def test_the_peak_is_that_of_what_was_in_memory_at_once():
    before = peak_memory()
    block = torch.ones(2**28, dtype=torch.uint8)
    del block
    assert peak_memory() - before > 0.9 * 2**28
    assert peak_memory() < 2**36


@pytest.mark.slow
def test_width_and_decoder_cost_time_and_memory():
    protocol = read_protocol(ROOT / "conf", ["width=512", "parts.equal_parameters.l1=64"])
    settings = compose_settings(["derived", "l1_norm", "l1"], "mnist", ROOT / "conf")
    first = list({setting.family: setting for setting in settings}.values())
    runs = Stages(protocol, "equal_parameters", Path("nowhere"), first, ()).grids()
    found = costs.costs(runs).set_index("family")
    assert found["step_ms"]["l1"] < found["step_ms"]["derived"] < found["step_ms"]["l1_norm"]
    assert found["peak_MiB"]["l1"] < found["peak_MiB"]["l1_norm"]
