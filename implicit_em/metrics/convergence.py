"""The epoch at which a training run counts as converged."""

from collections.abc import Sequence

import numpy as np


def convergence_epoch(
    losses: Sequence[float], threshold: float = 1.0, patience: int = 5
) -> int | None:
    """Return the first of ``patience`` consecutive epochs in which the loss changes little.

    The paper's rule. The objective has no lower bound, so this dates the slowing of the loss, not
    an optimum.

    Args:
        losses: mean training loss of each epoch.
        threshold: change from the epoch before, below which a change is small.
        patience: number of consecutive small changes.

    Returns:
        The epoch, counted from 1, or ``None`` if there is none.

    """
    changes = np.abs(np.diff(np.asarray(losses, dtype=np.float64)))
    if len(changes) < patience:
        return None
    small = np.lib.stride_tricks.sliding_window_view(changes < threshold, patience).all(axis=1)
    return int(small.argmax()) + 2 if small.any() else None
