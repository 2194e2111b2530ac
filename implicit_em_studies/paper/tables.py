"""The paper's tables: each published figure beside the measured one."""

from functools import partial
from typing import Any

import pandas as pd

from implicit_em_studies.paper.paper import REASONS, TABLES, Column, Published
from implicit_em_studies.shared.experiment import Printed
from implicit_em_studies.shared.tables import mean_and_deviation

NOTHING = "–"


def beside_published(name: str, runs: pd.DataFrame) -> dict[str, Any]:
    """Return the table ``name`` of the paper with one row a figure, and its ``deviations`` as text.

    A figure deviates if the means differ by more than both standard deviations and the paper's
    rounding together, or if a run has no value. ``deviates`` is null if nothing was published, and
    ``n`` counts the runs with a value.
    """
    published = TABLES[name]
    rows, deviations = [], []
    for values, figures in published.rows.items():
        row = dict(zip(published.by, values, strict=True))
        group = runs[(runs[list(row)] == list(values)).all(axis=1)]
        for column in published.columns:
            paper = figures.get(column.key)
            cell = _cell(group, column, paper)
            reason = REASONS.get((name, values, column.key), "") if cell["deviates"] else ""
            rows.append(row | cell | {"reason": reason})
            if paper and cell["deviates"]:
                text = {"paper": paper.text, "measured": _measured_text(cell, column)}
                place = {"table": name.removeprefix("table"), "row": ", ".join(map(str, values))}
                deviations.append(place | text | {"heading": column.heading, "reason": reason})
    return {name: pd.DataFrame(rows), "deviations": deviations}


def _cell(runs: pd.DataFrame, column: Column, paper: Published | None) -> dict[str, Any]:
    values = column.scale * pd.to_numeric(runs[column.key], errors="coerce").dropna()
    mean = float(values.mean()) if len(values) else None
    std = float(values.std()) if len(values) > 1 else None
    return {
        "quantity": column.key,
        "paper": paper.value if paper else None,
        "paper_std": paper.std if paper else None,
        "mean": mean,
        "std": std,
        "n": len(values),
        "runs": len(runs),
        "deviates": _deviates(mean, std, len(values) == len(runs), paper) if paper else None,
    }


def _measured_text(cell: Any, column: Column) -> str:
    if pd.isna(cell["mean"]):
        return "never" if column.key == "convergence_epoch" else NOTHING
    form = ",.3g" if column.digits is None else f",.{column.digits}f"
    std = None if column.key == "parameters" else cell["std"]  # a count, the same in every run
    some = f" ({cell['n']} of {cell['runs']})" if cell["n"] < cell["runs"] else ""
    return mean_and_deviation(cell["mean"], std, form) + some


def _deviates(mean: float | None, std: float | None, complete: bool, paper: Published) -> bool:
    if mean is None or paper.value is None:
        return (mean is None) != (paper.value is None)
    if not complete:
        return True  # some run has no value where the paper has one
    allowed = (paper.std or 0) + (std or 0) + paper.rounding
    return abs(mean - paper.value) > allowed


def printed(name: str) -> Printed:
    """Return how a table of the paper is printed."""
    published = TABLES[name]
    caption = f"{published.title} (mean ± standard deviation over n runs; * a deviation)"
    return Printed(caption, partial(side_by_side, name), len(published.by))


def side_by_side(name: str, cells: pd.DataFrame) -> pd.DataFrame:
    """Return a measured table as printed; the paper's figures come first.

    A column that the paper does not have stands alone. An asterisk marks a deviation.
    """
    published = TABLES[name]
    compared = {key for figures in published.rows.values() for key in figures}
    left, rows = iter(cells.to_dict("records")), []  # each row takes a cell a column
    for values, figures in published.rows.items():
        names = (f"{value:g}" if isinstance(value, float) else value for value in values)
        row = dict(zip(published.by, names, strict=True))
        for column, cell in zip(published.columns, left, strict=False):
            if column.key in compared:
                paper = figures.get(column.key)
                row[f"{column.heading}, paper"] = paper.text if paper else NOTHING
            star = " *" if cell["deviates"] is True else ""
            row[column.heading] = _measured_text(cell, column) + star
        rows.append(row | {"n": str(cell["runs"])})
    return pd.DataFrame(rows)


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of numbers as text for print, three significant digits."""
    names = {column: str(column).replace("_", " ") for column in frame}
    return frame.rename(columns=names).map(_short).astype(str)


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
