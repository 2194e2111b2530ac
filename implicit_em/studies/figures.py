"""The style that all figures share, with colours that the colour-blind can tell apart."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

# Okabe and Ito's palette.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#999999"
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


def bar(axes: Axes, x: float, values: pd.Series, width: float, spread: float, **look: Any) -> None:
    """Draw the mean of values as a bar, and each value as a dot within ``spread`` of its middle."""
    axes.bar(x, values.mean(), width, **look)
    axes.plot(x + np.linspace(-spread, spread, len(values)), values, ".", color=BLACK, ms=4)
