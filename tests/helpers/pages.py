"""What pages of runs are made from, a store of hostile tokens; and the thread of their server."""

import threading
from contextlib import contextmanager

import numpy as np

HOSTILE = [
    *("<pad>", "<s>", "</script>", "<script>alert(1)</script>", '"', "'", "<!--"),
    *("\U0001f600", "\u202eabc", "\u0000\n\t", "שלום", "the", " cat", "\u2028", "&lt;"),
]
"""A vocabulary of what pages could take for their own; the first two are special."""


def texts_of_store(count=60):
    """Return token ids of documents of different lengths."""
    rng = np.random.default_rng(0)
    return [rng.integers(2, len(HOSTILE), rng.integers(1, 60)).tolist() for _ in range(count)]


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
