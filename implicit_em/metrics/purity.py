"""Class purity: the degree to which a unit responds to one class."""

import numpy as np

STRONGEST = 100
"""Number of a unit's samples that tell its class."""


def class_purity(activations_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the share of a unit's activation that its commonest class causes, mean over units.

    A unit's activation is the sum of |a|. For units that are 0 or 1, this is the share of the
    activating samples in the commonest class (class purity as in arXiv 2602.12403). Other units
    weigh each sample by their response, so encoders that are never exactly zero need no threshold.
    A unit that ignores classes has the share of the data's commonest class. A unit that responds to
    a handful of samples is pure by chance, so read this beside the density histogram. Units that
    are never active do not count; NaN if all units are such.
    """
    magnitudes_NK = np.abs(activations_NK)
    mass_CK = np.stack(
        [magnitudes_NK[labels_N == label].sum(0, dtype=np.float64) for label in np.unique(labels_N)]
    )
    total_K = mass_CK.sum(0)
    live_K = total_K > 0
    shares_K = mass_CK.max(0)[live_K] / total_K[live_K]
    return float(shares_K.mean()) if live_K.any() else float("nan")


def top_classes(scores_NK: np.ndarray, labels_N: np.ndarray, top: int = STRONGEST) -> np.ndarray:
    """Return how many of each unit's strongest samples are of each class, shape ``(K, C)``.

    Labels are integers from 0. A unit whose scores do not vary has a row of zeros.
    """
    best_TK = np.argsort(-scores_NK, axis=0, kind="stable")[:top]
    counts_KC = (labels_N[best_TK][..., None] == np.arange(labels_N.max() + 1)).sum(0)
    return counts_KC * (np.ptp(scores_NK, axis=0) > 0)[:, None]


def top_purity(counts_KC: np.ndarray) -> float:
    """Return the share of the commonest class among a unit's strongest samples, in [0, 1].

    It is the mean over the units whose scores vary; NaN if there is none.

    Args:
        counts_KC: what ``top_classes`` returns.
    """
    live_KC = counts_KC[counts_KC.any(1)]
    return float(live_KC.max(1).mean() / live_KC[0].sum()) if len(live_KC) else float("nan")
