"""The number of cores, and the number of torch threads for a while."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch compute with a number of threads until the block ends."""
    import torch  # here, because configurations ask for the number of cores alone

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
