"""Tables as text, for the terminal and in Markdown."""

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd


LARGEST = 1e15
"""Number from which on a table shows the power of ten, not all digits."""


def format_value(value: Any) -> str:
    """Return a metric as text: four significant digits, a dash for ``None``."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if abs(value) < LARGEST and float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.2f}" if 100 <= abs(value) < 1e5 else f"{value:.4g}"


def print_rows(title: str, frame: "pd.DataFrame") -> None:
    """Print a table; numbers are formatted by ``format_value``."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(frame):
        heading = str(column).replace("_", " ")
        table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
    for row in frame.values.tolist():
        cells = (cell if isinstance(cell, str) else format_value(cell) for cell in row)
        table.add_row(*map(Text, cells))  # no markup: a job's name may hold brackets
    console.print(table)


def markdown_table(frame: "pd.DataFrame") -> str:
    """Return a table in Markdown, with its cells unchanged."""
    return frame.to_markdown(index=False, disable_numparse=True)
