"""The style that all figures share, with colours that the colour-blind can tell apart."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from implicit_em.metrics.densities import BINS, EDGES
from implicit_em_studies.shared.tables import FAMILIES, name_of, rows_of

K = TypeVar("K", bound=Hashable)
# Okabe and Ito's palette.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#999999"
COLOURS = {name.lower(): value for name, value in vars().items() if str(value).startswith("#")}
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: text stays text
    "figure.constrained_layout.use": True,
}
WIDTH = 7.0  # inches: the width of a page's text
LINE = 100  # characters in a line of that width
RESOLUTION = 200  # dots per inch of the PNG files


class Look(NamedTuple):
    """How a family is drawn."""

    colour: str
    line: str
    marker: str


def subplots(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    """Return a figure as wide as a page's text, and its panels."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots(rows, columns, **options)


def row(titles: Mapping[K, str], height: float, **options: Any) -> tuple[Figure, dict[K, Axes]]:
    """Return a figure of panels in a row, and the panels by the keys of their titles."""
    figure, panels = subplots(1, len(titles), height, squeeze=False, **options)
    for axes, title in zip(panels[0], titles.values(), strict=True):
        axes.set_title(title)
    return figure, dict(zip(titles, panels[0], strict=True))


def legend_below(figure: Figure, axes: Axes, columns: int | None = None, **look: Any) -> None:
    """Write the legend of a panel below all panels, by default on one line."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns or len(labels), **look)


def plain_logarithm(axis: Axis) -> None:
    """Write 1, 2 and 5 times the powers of ten along a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def dots_and_means(
    axes: Axes, x: pd.Series, y: pd.Series, line: str = "-", label: str | None = None, **look: Any
) -> None:
    """Draw each value as a dot, and a line through the means at each x."""
    means = y.groupby(x).mean()
    axes.plot(x, y, ".", ms=4, **look)
    axes.plot(means.index, means, line, label=label, **look)


def bar(axes: Axes, x: float, values: pd.Series, width: float, spread: float, **look: Any) -> None:
    """Draw the mean of values as a bar, and each value as a dot within ``spread`` of its middle."""
    axes.bar(x, values.mean(), width, **look)
    axes.plot(x + np.linspace(-spread, spread, len(values)), values, ".", color=BLACK, ms=4)


def look_of(family: str) -> Look:
    """Return how a family is drawn; those of the project have a look of their own."""
    colour, line, marker = FAMILIES.get(family, {}).get("look", ("vermilion", ":", "."))
    return Look(COLOURS[colour], line, marker)


def panels(
    families: Sequence[str],
    draw: Callable[[Axes, str], None],
    height: float,
    x_label: str = "",
    y_label: str = "",
) -> Figure:
    """Draw a panel for each family, three in a row, with the family's name above."""
    lines = -(-len(families) // 3)
    figure, panels = subplots(lines, 3, height * lines + 0.3, squeeze=False, sharey=False)
    for axes, family in zip(panels.flat, families, strict=False):
        draw(axes, family)
        axes.set_title(name_of(family))
        axes.set_xlabel("")
    for axes in panels.flat[len(families) :]:
        axes.set_axis_off()
    if x_label:
        figure.supxlabel(x_label, fontsize=9)
        figure.supylabel(y_label, fontsize=9)
    return figure


def density_histograms(
    families: Sequence[str], finals: pd.DataFrame, height: float, x_label: str
) -> Figure:
    """Draw the share of each family's units in each bin of ``densities.density_histogram``."""
    labels = ["dead", *(f"{100 * edge:g}" for edge in EDGES)]

    def panel(axes: Axes, family: str) -> None:
        own = rows_of(finals, family=family)
        if len(own):
            shares = own[[*BINS]].div(own["units"], axis=0).mean()
            axes.bar(range(len(BINS)), 100 * shares, color=look_of(family).colour)
            axes.set_xticks(range(0, len(BINS), 3), labels[::3])

    return panels(families, panel, height, x_label, "units (%)")
