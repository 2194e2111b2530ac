"""When a training run counts as converged."""

from collections.abc import Sequence

import numpy as np


def convergence_epoch(
    losses: Sequence[float], threshold: float = 1.0, patience: int = 5
) -> int | None:
    """First epoch, counted from 1, of ``patience`` consecutive small changes of the loss.

    The paper's rule: from that epoch on, the epoch-mean training loss differs from the epoch before
    by less than ``threshold``. As the objective is unbounded below, this dates the slowing of the
    loss, not an optimum.

    Returns:
        The epoch, or ``None`` if there is none.

    """
    changes = np.abs(np.diff(np.asarray(losses, dtype=np.float64)))
    if len(changes) < patience:
        return None
    small = np.lib.stride_tricks.sliding_window_view(changes < threshold, patience).all(axis=1)
    return int(small.argmax()) + 2 if small.any() else None
