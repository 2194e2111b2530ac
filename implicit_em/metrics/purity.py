"""Class purity: whether a unit speaks for one class."""

import numpy as np


def class_purity(activations_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the share of a unit's activation, sum of |a|, in its commonest class: mean of units.

    For units that are 0 or 1 it is the share of the activating samples that are of the commonest
    class (class purity as in arXiv 2602.12403); others weigh each sample by how strongly they
    respond, so that no threshold has to be chosen for encoders that are never exactly zero. A unit
    that does not tell classes apart has the share of the data's commonest class; one that responds
    to a handful of samples is pure by chance, so read it beside the density histogram.

    Args:
        activations_NK: shape ``(N, K)``.
        labels_N: class of each sample.

    Returns:
        The mean over the units that are active at all; NaN where none is.

    """
    magnitudes_NK = np.abs(activations_NK)
    mass_CK = np.stack(
        [magnitudes_NK[labels_N == label].sum(0, dtype=np.float64) for label in np.unique(labels_N)]
    )
    total_K = mass_CK.sum(0)
    live_K = total_K > 0
    shares_K = mass_CK.max(0)[live_K] / total_K[live_K]
    return float(shares_K.mean()) if live_K.any() else float("nan")
