"""The figures of the study: phase diagrams, variations, and the activity of the finals."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from implicit_em_studies.recovery.protocol import FOUND
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.statistics import mean_share
from implicit_em_studies.shared.tables import name_of

if TYPE_CHECKING:
    from implicit_em_studies.recovery.results import RecoveryResults

VIRIDIS = colormaps["viridis"]
LIGHT = 0.6  # share from which a colour needs dark letters
FOUND_LABEL = "features found (%)"
EMPTY = "#eeeeee"  # settings that are no cell


def phases(results: "RecoveryResults", criterion: str) -> Figure:
    """Draw the share found over density and features per dimension, a panel for each family."""
    cells = results.cells[results.cells["group"] == "cells"].set_index("cell")
    ratios_of_cells = cells["features"] / cells["width"]
    finals = results.finals_of(criterion)
    finals = finals[finals["cell"].isin(cells.index)].assign(
        density=lambda rows: rows["cell"].map(cells["density"]),
        ratio=lambda rows: rows["cell"].map(ratios_of_cells),
    )
    densities, ratios = (sorted(values.unique()) for values in (finals["density"], finals["ratio"]))

    def panel(axes: Axes, family: str) -> None:
        own = finals[finals["family"] == family]
        shares = own.pivot_table(FOUND, "ratio", "density").reindex(ratios, columns=densities)
        shares_RC = shares.to_numpy(np.float64)
        axes.imshow(shares_RC, VIRIDIS, vmin=0, vmax=1, origin="lower", aspect="auto")
        for (row, column), share in np.ndenumerate(shares_RC):
            if np.isfinite(share):
                ink = style.BLACK if share > LIGHT else "white"
                text = f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
        axes.set_facecolor(EMPTY)
        axes.set_xticks(range(len(densities)), [f"{100 * density:g}" for density in densities])
        axes.set_yticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
        axes.grid(False)

    x_label, y_label = "features present in a sample (%)", "features per dimension"
    figure = style.panels(results.protocol.families, panel, 1.9, x_label, y_label)
    shown = [axes for axes in figure.axes if axes.images]
    scale = figure.colorbar(shown[0].images[0], ax=figure.axes, shrink=0.6, aspect=30)
    scale.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
    scale.set_label(FOUND_LABEL)
    return figure


def variations(results: "RecoveryResults", criterion: str) -> Figure:
    """Draw the share found in each variation, a dot with its interval for each family."""
    finals = results.finals_of(criterion)
    cells = results.cells
    names = ["middle", *cells.loc[cells["group"] == "variations", "cell"]]
    names = [name for name in names if name in set(cells["cell"])]
    families = results.protocol.families
    figure, axes = style.subplots(1, 1, 1.2 + 0.6 * len(names))
    for place, family in enumerate(families):
        colour, _, marker = style.look_of(family)
        own = finals[finals["family"] == family].groupby("cell")[FOUND]
        for row, name in enumerate(names):
            if name in own.groups:
                share = mean_share(own.get_group(name))
                height = row + 0.8 * ((place + 0.5) / len(families) - 0.5)
                if share.low is not None and share.high is not None:
                    ends = [100 * share.low, 100 * share.high]
                    axes.plot(ends, [height, height], color=colour, lw=1)
                axes.plot(100 * share.value, height, marker, color=colour, ms=4)
        axes.plot([], [], marker, color=colour, ms=4, label=name_of(family))
    for border in range(1, len(names)):
        axes.axhline(border - 0.5, color=style.GREY, lw=0.5)
    axes.grid(False, axis="y")
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel=FOUND_LABEL, xlim=(-2, 102))
    style.legend_below(figure, axes, columns=5)
    return figure


def l0(results: "RecoveryResults") -> Figure:
    """Draw the finals' L0 over the true L0, a dot for each family and cell; equal on the line."""
    criteria = list(results.protocol.criteria)
    varied = results.cells["group"] == "variations"  # most have the true L0 of the middle cell
    cells = results.cells if varied.all() else results.cells[~varied]
    truth = cells.set_index("cell")["true_l0"]
    figure, panels = style.subplots(1, len(criteria), 4, sharex=True, sharey=True)
    for axes, criterion in zip(panels, criteria, strict=True):
        finals = results.finals_of(criterion)
        shown = finals[finals["cell"].isin(truth.index)]
        means = shown.groupby(["family", "cell"])["l0"].mean()
        for family in results.protocol.families:
            if family in means.index:
                colour, _, marker = style.look_of(family)
                own = means[family]
                place = truth[own.index], own
                axes.plot(*place, marker, color=colour, ms=5, alpha=0.8, label=name_of(family))
        axes.axline((1, 1), (2, 2), color=style.GREY, lw=1)
        axes.set(xscale="log", yscale="log", xlabel="features present in a sample")
        axes.set_title(f"chosen {'by the truth' if criterion == 'truth' else 'without the truth'}")
        _powers_of_two(axes.xaxis, truth)
        _powers_of_two(axes.yaxis, means)
    panels[0].set_ylabel("active units of a sample")
    style.legend_below(figure, panels[0], columns=5)
    return figure


def _powers_of_two(axis: Axis, numbers: pd.Series) -> None:
    """Mark the powers of two among the numbers, which a logarithmic axis leaves out."""
    style.plain_logarithm(axis)
    positive = numbers[numbers > 0]
    if len(positive):
        low, high = np.floor(np.log2(positive.min())), np.ceil(np.log2(positive.max()))
        axis.set_ticks(2.0 ** np.arange(low, high + 1))
