"""Denormal numbers are taken as 0 in a block, and as they are after it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from implicit_em.base.denormals import flushed_denormals

pytestmark = pytest.mark.skipif(
    not torch.set_flush_denormal(False), reason="needs a CPU that can flush denormal numbers"
)


def half_of_the_smallest() -> float:
    return float(torch.tensor(torch.finfo(torch.float32).tiny) / 2)


def test_denormal_numbers_are_0_until_the_block_ends_or_fails_in_its_thread_alone() -> None:
    with ThreadPoolExecutor(1) as other:
        before = other.submit(half_of_the_smallest).result()
        with flushed_denormals():
            assert half_of_the_smallest() == 0
            assert other.submit(half_of_the_smallest).result() == before > 0
    assert half_of_the_smallest() == before
    with pytest.raises(RuntimeError), flushed_denormals():
        raise RuntimeError
    assert half_of_the_smallest() == before


def test_a_mode_that_was_there_stays() -> None:
    torch.set_flush_denormal(True)
    try:
        with flushed_denormals():
            pass
        assert half_of_the_smallest() == 0
    finally:
        torch.set_flush_denormal(False)
