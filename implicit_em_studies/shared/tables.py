"""Tables of a study: as records, as text in a report, and as CSV files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

FAMILIES: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("families.yaml").read_text(encoding="utf-8")
)
"""How families are called and drawn."""


def name_of(family: str) -> str:
    """Return the name of a family or knob in print."""
    return FAMILIES.get(family, {}).get("name", family.replace("_", " "))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table by column, with ``None`` for what is missing."""
    cells = frame.astype(object)
    return cells.where(cells.notna(), None).to_dict("records")  # type: ignore[return-value]


def mean_and_deviation(mean: float | None, deviation: float | None, form: str) -> str:
    """Return ``mean ± deviation`` in a format; a dash or the mean alone if a number is missing."""
    if pd.isna(mean):
        return "–"
    return f"{mean:{form}}" + ("" if pd.isna(deviation) else f" ± {deviation:{form}}")


def over_runs(values: pd.Series, form: str) -> str:
    """Return ``mean ± deviation`` of the values of runs, in a format."""
    return mean_and_deviation(values.mean(), values.std(), form)


Cell = tuple[str, str] | Callable[[pd.DataFrame], str]
"""A column of runs and the format of its numbers, or a function from runs to a text."""


def over_seeds(
    runs: pd.DataFrame, names: Mapping[str, str], cells: Mapping[str, Cell]
) -> pd.DataFrame:
    """Return a table as text, with one row for all runs that are alike.

    Args:
        runs: one row a run.
        names: columns whose values name a row, by heading; runs with equal values are alike.
        cells: what stands in a row, by heading. Numbers are written as mean ± deviation over the
            runs; a heading with ``(%)`` shows hundred times the numbers.
    """

    def text(heading: str, group: pd.DataFrame) -> str:
        cell = cells[heading]
        if callable(cell):
            return cell(group)
        scale = 100 if "(%)" in heading else 1
        return over_runs(scale * group[cell[0]], cell[1])

    rows = []
    for values, group in runs.groupby([*names.values()], sort=False):
        row = {
            name: v if isinstance(v, str) else f"{v:g}"
            for name, v in zip(names, values, strict=True)
        }
        rows.append(row | {heading: text(heading, group) for heading in cells})
    return pd.DataFrame(rows)


def rows_of(frame: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Return the rows that have these values in the columns of their names."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def history_of(directory: object) -> pd.DataFrame:
    """Return what a run logged, a row an epoch."""
    return pd.read_csv(f"{directory}/history.csv")


def percent(share: float, digits: int | None = None) -> str:
    """Return a share as text: ``5 %``; a dash for NaN."""
    text = f"{100 * share:g} %" if digits is None else f"{100 * share:.{digits}f} %"
    return text.replace("nan %", "–")


def mean_over_seeds(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return mean ± deviation over the seeds of each setting, as text."""
    rows = []
    for (family, settings), seeds in frame.groupby(["family", "settings"], sort=False):
        row = {"family": name_of(str(family)), "settings": settings, "n": str(len(seeds))}
        for column in columns:
            values = pd.to_numeric(seeds[column], errors="coerce").dropna().to_numpy()
            row[column.replace("_", " ")] = _mean_text(values)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_text(values: np.ndarray) -> str:
    if not len(values):
        return "–"
    alike = np.allclose(values, values[0], rtol=1e-12, atol=0)  # equal up to rounding
    return f"{values.mean():.4g}" + ("" if alike else f" ± {values.std(ddof=1):.2g}")
