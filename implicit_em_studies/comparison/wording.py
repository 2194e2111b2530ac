"""Targets and widths in print."""

import pandas as pd

from implicit_em_studies.shared.families import name_of

ACTIVE = "active units"  # the unit of targets that are numbers of active units


def shared(numbers: pd.Series) -> str:
    """Return the numbers of the families in the index: ``64 for L1, TopK; 128 for derived``."""
    return "; ".join(
        f"{number} for {', '.join(map(name_of, families.index))}"
        for number, families in numbers.groupby(numbers)
    )


def widths_of(finals: pd.DataFrame) -> str:
    """Return the number of units K of the families as text."""
    return shared(finals.groupby("family", sort=False)["units"].first())
