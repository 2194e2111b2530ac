"""Numbers so small that a CPU takes many times as long for them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take denormal numbers as 0 in this thread until the block ends, if the CPU can.

    These are the numbers closer to 0 than ``torch.finfo(dtype).tiny``. Adam's mean of the gradients
    becomes denormal where the gradient stays 0: it shrinks at each step, and rounding then keeps it
    above 0. The weights of dead units and of pixels that are hardly ever on are such places.
    """
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    before = not smallest.div(2).item()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
