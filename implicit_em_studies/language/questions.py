"""Targets of the study: leads at several L0, tested together, and corrected over the study."""

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from implicit_em_studies.shared.targets import Asked

LEVEL = 0.025
"""One-sided p-value, corrected, below which a target is met."""


class Question(Asked):
    """What is asked of families beside another, at so many L0 of each language model.

    Args:
        by: measure of the study.
        above: bound of the lead in points, of a share of the variance.
        below: bound of the ratio to the other family's loss, of a loss inside the model.
        places: number of L0 at which the bound has to hold, by the part that it counts in.
    """

    by: str
    above: float | None = None
    below: Annotated[float, Field(gt=0)] | None = None
    places: Annotated[dict[str, PositiveInt], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("must have one of above, below")
        return self

    @property
    def measures(self) -> list[str]:
        """Names of its measures."""
        return [self.by]

    @property
    def bound(self) -> float:
        """The bound in the units of a lead: a share, or the logarithm of a ratio."""
        return self.above / 100 if self.above is not None else -float(np.log(self.below or 1))

    def asked(self, part: str, l0: Sequence[int]) -> str:
        """Return the bound as text, and at how many of the L0 of a part it has to hold."""
        points = "" if self.above is None else f"lead above {self.above:g} points"
        bound = points or f"ratio below {self.below:g}"
        where = ", ".join(map(str, l0))
        return f"{bound}, at {self.places[part]} of {len(l0)} L0 ({where})"


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
