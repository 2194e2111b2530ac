"""Densities: the share of units that a sample activates, and of samples that activate a unit."""

import numpy as np

RELATIVE = 0.01
"""Share of its largest activation above which a unit counts as active."""
EDGES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper ends of the histogram's bins, three in each decade."""
BINS = ("units_dead", *(f"units_to_{edge:g}" for edge in EDGES))
"""Names of the histogram's bins."""


def unit_densities(activations_NK: np.ndarray, relative: float = 0.0) -> np.ndarray:
    """Return the share of the samples on which each unit is active, shape ``(K,)``.

    A unit is active if ``|a| > relative * max |a|``, with its maximum over these samples. At 0,
    everything but exact zeros is active, which suits TopK and ReLU. ``RELATIVE`` also suits
    encoders whose activations are small but never zero. A unit that is always 0 has density 0; any
    other constant unit has density 1.
    """
    magnitudes_NK = np.abs(activations_NK)
    # In float64: rounding the threshold to the activations' type would decide ties.
    threshold_K = relative * magnitudes_NK.max(0).astype(np.float64)
    return (magnitudes_NK > threshold_K).mean(0)


def density(activations_NK: np.ndarray, relative: float = 0.0) -> float:
    """Return the share of (sample, unit) pairs that are active: ``L0 / K``; see unit_densities."""
    return float(unit_densities(activations_NK, relative).mean())


def density_histogram(densities_K: np.ndarray) -> np.ndarray:
    """Return the number of units in each bin of density: 0, then up to each of ``EDGES``."""
    bins_K = np.where(densities_K > 0, 1 + np.searchsorted(EDGES, densities_K), 0)
    return np.bincount(bins_K, minlength=1 + len(EDGES))
