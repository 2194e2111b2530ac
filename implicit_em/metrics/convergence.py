"""The epoch at which a training run counts as converged."""

from collections.abc import Sequence

import numpy as np


def convergence_epoch(
    losses: Sequence[float], threshold: float = 1.0, patience: int = 5
) -> int | None:
    """Return the first of ``patience`` epochs with changes below ``threshold``, counted from 1.

    This is the paper's rule; ``None`` if there is no such epoch. The objective has no lower bound,
    so the rule dates the slowing of the loss, not an optimum.
    """
    changes = np.abs(np.diff(np.asarray(losses, dtype=np.float64)))
    if len(changes) < patience:
        return None
    small = np.lib.stride_tricks.sliding_window_view(changes < threshold, patience).all(axis=1)
    return int(small.argmax()) + 2 if small.any() else None
