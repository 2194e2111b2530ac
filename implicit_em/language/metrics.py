"""Measurements of what a language model loses when vectors inside it are replaced."""

import numpy as np
from numpy.typing import ArrayLike

INSIDE = ("ce_recovered", "ce_nats", "ce_clean_nats", "kl_nats")
"""Keys of ``measured_inside``."""


def measured_inside(
    predicted: ArrayLike,
    clean: ArrayLike,
    zero: ArrayLike,
    spliced: ArrayLike,
    divergence: ArrayLike,
) -> dict[str, np.ndarray]:
    """Return ``INSIDE`` from sums over predicted tokens, each of the same shape.

    They are the share of the cross-entropy recovered, and in nats for each predicted token the
    cross-entropy with reconstructions, that of the model itself, and the divergence.

    Args:
        predicted: number of predicted tokens.
        clean: cross-entropy of the model itself, in nats.
        zero: cross-entropy with zeros for the vectors.
        spliced: cross-entropy with their reconstructions.
        divergence: KL(clean || spliced), in nats.
    """
    shares = (np.divide(each, predicted) for each in (spliced, clean, divergence))
    return dict(zip(INSIDE, (ce_recovered(clean, zero, spliced), *shares), strict=True))


def ce_recovered(clean: ArrayLike, zero: ArrayLike, spliced: ArrayLike) -> np.ndarray:
    """Return the share of the cross-entropy that a reconstruction recovers, float64.

    It is ``(zero - spliced) / (zero - clean)``: 1 for a reconstruction that costs nothing, and 0
    for one that is as bad as zeros (the loss recovered of Bricken et al. 2023, Towards
    Monosemanticity). It lies beyond these if the reconstruction is better than the vectors
    themselves, or worse than zeros. NaN if zeros cost nothing: then there is nothing to recover.

    Args:
        clean: cross-entropy of the model itself; all three have shapes that broadcast.
        zero: cross-entropy with zeros for the vectors.
        spliced: cross-entropy with their reconstructions.
    """
    clean, zero, spliced = (np.asarray(loss, dtype=np.float64) for loss in (clean, zero, spliced))
    cost = np.where(zero > clean, zero - clean, np.nan)
    return (zero - spliced) / cost
