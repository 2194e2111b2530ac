"""The choice of a setting of each family."""

from collections.abc import Mapping
from typing import Any

import pandas as pd


def choose(tuning: pd.DataFrame, criteria: Mapping[Any, str]) -> pd.DataFrame:
    """Return the best setting of each family by each criterion, a row for each.

    Args:
        tuning: one row per setting, with ``family``, ``settings``, ``run``, and the criteria's
            columns, null if the setting diverged.
        criteria: column of each criterion; with a minus in front, less is better.
    """
    rows = []
    for name, criterion in criteria.items():
        column = criterion.removeprefix("-")
        known = tuning.dropna(subset=column)
        values = -known[column] if criterion.startswith("-") else known[column]
        best = values.groupby(known["family"], sort=False).idxmax()
        rows.append(known.loc[best].assign(criterion=name))
    return pd.concat(rows, ignore_index=True)
