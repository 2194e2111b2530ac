"""Tests of targets: of leads at several L0 together."""

from collections.abc import Sequence

import numpy as np

LEVEL = 0.025
"""One-sided p-value, corrected, below which a target is met."""


def above(lead_R: np.ndarray, bound: float) -> float:
    """Return the one-sided p-value of a lead that is not above a bound, by its resamples.

    It is ``(1 + #{lead <= bound}) / (1 + R)`` (Davison & Hinkley 1997, section 4.2); it is below
    0.025 where the lower end of the 95 % percentile interval is above the bound.
    """
    return (1 + int((lead_R <= bound).sum())) / (1 + len(lead_R))


def partial_conjunction(p_values: Sequence[float], least: int) -> float:
    """Return the p-value of a claim that holds at ``least`` of n places, 1 if there are fewer.

    It is ``(n - m + 1) p_(m)``, with the m-th smallest p-value: valid however the places depend on
    each other (Benjamini & Heller 2008, equation 3, Bonferroni's form).
    """
    if least > len(p_values):
        return 1.0
    return min(1.0, (len(p_values) - least + 1) * sorted(p_values)[least - 1])
