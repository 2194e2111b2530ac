"""How many units are active on a sample, and on how many samples a unit is."""

import numpy as np

RELATIVE = 0.01
"""Share of a unit's largest activation above which it counts as active."""
EDGES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper ends of the histogram's bins, three a decade."""


def unit_densities(activations_NK: np.ndarray, relative: float = 0.0) -> np.ndarray:
    """Return the share of the samples on which each unit is active, shape ``(K,)``.

    Active means ``|a| > relative * max |a|``, the maximum being the unit's own over these samples:
    at 0 whatever is not exactly zero, as TopK and ReLU give it; at ``RELATIVE`` also encoders that
    are small but never zero have a density. A unit that is zero throughout has density 0, any other
    constant one density 1.
    """
    magnitudes_NK = np.abs(activations_NK)
    # In float64: rounding the threshold to the activations' type would decide ties.
    threshold_K = relative * magnitudes_NK.max(0).astype(np.float64)
    return (magnitudes_NK > threshold_K).mean(0)


def density(activations_NK: np.ndarray, relative: float = 0.0) -> float:
    """Return the share of (sample, unit) pairs that are active: ``L0 / K``; see unit_densities."""
    return float(unit_densities(activations_NK, relative).mean())


def density_histogram(densities_K: np.ndarray) -> np.ndarray:
    """Return how many units have which density: dead, then up to each of ``EDGES``.

    Bins are open below and closed above; the first of all holds the units of density 0 alone.

    Args:
        densities_K: from ``unit_densities``.

    Returns:
        Counts of ``1 + len(EDGES)`` bins, which add up to K.

    """
    bins_K = np.where(densities_K > 0, 1 + np.searchsorted(EDGES, densities_K), 0)
    return np.bincount(bins_K, minlength=1 + len(EDGES))
