"""The paper's published tables, as they stand in ``published.yaml``, and why a figure differs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Published(NamedTuple):
    """A published figure, in the unit of its column."""

    value: float | int | None  # with the decimals that the paper prints; ``None`` for "never"
    std: float | int | None = None

    @property
    def text(self) -> str:
        """The figure as printed."""
        if self.value is None:
            return "never"
        return f"{self.value:,}" + (f" ± {self.std}" if self.std is not None else "")

    @property
    def rounding(self) -> float:
        """Half a unit of the last digit printed."""
        decimals = len(str(self.value).partition(".")[2])
        return 0.5 * 10.0**-decimals


class Column(NamedTuple):
    """A quantity of a table."""

    key: str  # in ``metrics.json``
    heading: str
    digits: int | None = None  # decimals of measured figures; ``None``: three significant digits
    scale: float = 1.0  # factor from the metric to the unit of the heading


class PublishedTable(NamedTuple):
    """A table of the paper."""

    title: str
    by: list[str]  # the axes whose values name the rows
    columns: list[Column]  # the paper's, then further ones
    rows: dict[tuple[str | float, ...], dict[str, Published]]  # by row and column key


def _table(title: str, by: list[str], columns: list[str], rows: list[dict[str, Any]]) -> Any:
    figures = {}
    for row in rows:
        name = tuple(row.pop(axis) for axis in by)
        pairs = {key: one if isinstance(one, list) else [one] for key, one in row.items()}
        figures[name] = {key: Published(*pair) for key, pair in pairs.items()}
    return PublishedTable(
        title, by, [Column(key, **_FILE["columns"][key]) for key in columns], figures
    )


_FILE = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
TABLES: Mapping[str, PublishedTable] = {n: _table(**one) for n, one in _FILE["tables"].items()}
"""The paper's tables."""
REASONS: Mapping[tuple[str, tuple[str | float, ...], str], str] = {
    (figure["table"], tuple(figure["row"]), figure["column"]): one["reason"]
    for one in _FILE["reasons"]
    for figure in one["of"]
}
"""Why a figure deviates, by table, row and column."""
