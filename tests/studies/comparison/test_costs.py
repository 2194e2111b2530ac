"""What a training step costs: how the peak of memory is read."""

from pathlib import Path

import pytest
import torch

from implicit_em_studies.comparison.costs import _forget_peak, peak_memory

MUCH = 2**28


def allocate():
    return torch.ones(MUCH, dtype=torch.uint8)


def test_the_peak_is_that_of_what_was_in_memory_at_once():
    before = _forget_peak()
    allocate()
    assert 0.9 * MUCH < peak_memory() - before < 1.5 * MUCH


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_a_peak_is_forgotten():
    allocate()
    assert peak_memory() - _forget_peak() > 0.9 * MUCH
