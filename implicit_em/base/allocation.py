"""What the C library does with memory that is freed."""

import ctypes
import os
import platform
from functools import cache

LARGEST = 2**31 - 1
SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, LARGEST),
    "MALLOC_MMAP_THRESHOLD_": (-3, LARGEST),
    "MALLOC_ARENA_MAX": (-8, 1),
}
"""Environment variables of glibc, each with its parameter of ``mallopt`` and our value.

The numbers of the parameters are in glibc's ``malloc.h``; ``man mallopt`` says what they do.
"""


@cache
def keep_freed_memory() -> None:
    """Let the process keep freed memory for its next tensors, if its C library is glibc.

    Each step allocates the same large tensors. By default, glibc returns their memory to the
    kernel, which must clear it again for the next step. With this, only blocks of 2 GiB and more
    are returned. All threads then share one pool, because the pools that glibc makes for threads
    would return memory. A thread keeps the pool it has, so call this before threads start. A
    variable of ``SETTINGS`` that is set already keeps its value.
    """
    if not _has_glibc():
        return
    for variable, (parameter, value) in SETTINGS.items():
        if variable not in os.environ:
            ctypes.CDLL(None).mallopt(parameter, value)


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
