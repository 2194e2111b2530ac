"""The epoch at which a training run counts as converged, by two rules."""

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


def settling_epoch(
    over_one: Sequence[float], over_ten: Sequence[float], patience: int = 5
) -> int | None:
    """Return the epoch from which on weights fluctuate and do not drift.

    A random walk gets ``sqrt(10)`` times as far in ten epochs as in one. A quantity that drifts
    gets farther, and one that fluctuates about a place gets less far. The rule needs no threshold
    on the changes themselves, so it holds at any rate, and whatever the scale of the energies.

    Args:
        over_one: change over each epoch: an angle, or a distance.
        over_ten: change over the ten epochs that end with each epoch; NaN before the tenth epoch.
        patience: least number of epochs for which it must hold, up to the end.

    Returns:
        The first epoch, counted from 1, from which on up to the end no change over ten epochs
        exceeds ``sqrt(10)`` times the change over one epoch; ``None`` if there are fewer than
        ``patience`` such epochs.
    """
    walked = np.sqrt(10) * np.asarray(over_one, dtype=np.float64)
    within = np.asarray(over_ten, dtype=np.float64) <= walked
    outside = np.flatnonzero(~within)
    first = int(outside[-1]) + 1 if len(outside) else 0
    return first + 1 if len(within) - first >= patience else None
