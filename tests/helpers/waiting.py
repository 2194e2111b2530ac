"""How long something may take."""

import time
from contextlib import contextmanager


@contextmanager
def within(seconds):
    start = time.monotonic()
    yield
    taken = time.monotonic() - start
    assert taken < seconds, f"took {taken:.2f} s"


def soon():
    """Seconds within which a refusal must come; one takes milliseconds."""
    return within(5.0)
