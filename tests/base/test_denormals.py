"""Denormal numbers are taken as 0 in a block, and as they are after it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from implicit_em.base.denormals import flushed_denormals

pytestmark = pytest.mark.skipif(
    not torch.set_flush_denormal(False), reason="needs a CPU that can flush denormal numbers"
)
TINY = torch.finfo(torch.float32).tiny


def half_of_the_smallest() -> float:
    return float(torch.tensor(TINY) / 2)


def test_until_the_block_ends() -> None:
    assert half_of_the_smallest() > 0
    with flushed_denormals():
        assert half_of_the_smallest() == 0
    assert half_of_the_smallest() > 0


def test_also_if_it_fails() -> None:
    with pytest.raises(RuntimeError), flushed_denormals():
        raise RuntimeError
    assert half_of_the_smallest() > 0


def test_a_mode_that_was_there_stays() -> None:
    torch.set_flush_denormal(True)
    try:
        with flushed_denormals():
            pass
        assert half_of_the_smallest() == 0
    finally:
        torch.set_flush_denormal(False)


def test_other_threads_go_on_as_they_are() -> None:
    with ThreadPoolExecutor(1) as other:
        before = other.submit(half_of_the_smallest).result()
        with flushed_denormals():
            assert other.submit(half_of_the_smallest).result() == before > 0
