"""A study's tables: as records, and as CSV files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_em.base.files import whole


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table by column, with ``None`` for what is missing."""
    cells = frame.astype(object)
    return cells.where(cells.notna(), None).to_dict("records")  # type: ignore[return-value]


def write_tables(tables: Mapping[str, pd.DataFrame], directory: Path, trial: str | None) -> None:
    """Write tables as CSV, those of a trial with its label in a column.

    A table without columns is left out: pandas could not read it.
    """
    for name, table in tables.items():
        if not len(table.columns):
            continue
        with whole(directory / f"{name}.csv") as temporary:
            (table.assign(trial=trial) if trial else table).to_csv(temporary, index=False)
