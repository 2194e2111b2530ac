"""The figures of the study: phase diagrams, variations, and activity against recovery."""

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, ScalarFormatter

from implicit_em.recover.results import FOUND, OWN, Results
from implicit_em.studies import figures as style
from implicit_em.studies.families import name_of
from implicit_em.studies.statistics import mean_share
from implicit_em.studies.tables import records

VIRIDIS = colormaps["viridis"]
LIGHT = 0.6  # share from which a colour needs dark letters
FOUND_LABEL = "features found (%)"


def phases(results: Results, criterion: str) -> Figure:
    """Draw the share found over density and features per dimension, a panel for each family.

    The square is what a ridge decoder finds, the number below what the model's own decoder does.
    """
    cells = results.cells[results.cells["group"] == "cells"]
    finals = results.finals_of(criterion)
    shares = finals.groupby(["family", "cell"])[[FOUND, OWN]].mean()

    def panel(axes: Axes, family: str) -> None:
        for cell in records(cells):
            if (family, cell["cell"]) not in shares.index:
                continue
            ridge, own = shares.loc[(family, cell["cell"])]
            place = (cell["density"], cell["features"] / cell["width"])
            axes.scatter(*place, s=420, marker="s", color=VIRIDIS(ridge))
            ink = style.BLACK if ridge > LIGHT else "white"
            text = f"{100 * ridge:.0f}" + ("" if pd.isna(own) else f"\n{100 * own:.0f}")
            axes.annotate(text, place, ha="center", va="center", fontsize=6, color=ink)
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(sorted(cells["density"].unique()))
        axes.set_yticks(sorted((cells["features"] / cells["width"]).unique()))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}"))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
        axes.margins(0.25)

    x_label, y_label = "features present in a sample (%)", "features per dimension"
    return style.panels(results.protocol.families, panel, 2.6, x_label, y_label)


def variations(results: Results, criterion: str) -> Figure:
    """Draw the share found in each variation, a dot with its interval for each family."""
    finals = results.finals_of(criterion)
    cells = results.cells
    names = ["middle", *cells.loc[cells["group"] == "variations", "cell"]]
    names = [name for name in names if name in set(cells["cell"])]
    families = results.protocol.families
    figure = Figure(figsize=(style.WIDTH, 2.8 + 0.35 * len(names)))
    axes = figure.subplots()
    for place, family in enumerate(families):
        colour, _, marker = style.look_of(family)
        own = finals[finals["family"] == family].groupby("cell")[FOUND]
        for row, name in enumerate(names):
            if name in own.groups:
                share = mean_share(own.get_group(name))
                height = row + 0.7 * ((place + 0.5) / len(families) - 0.5)
                if share.low is not None and share.high is not None:
                    ends = [100 * share.low, 100 * share.high]
                    axes.plot(ends, [height, height], color=colour, lw=1)
                axes.plot(100 * share.value, height, marker, color=colour, ms=4)
        axes.plot([], [], marker, color=colour, ms=4, label=name_of(family))
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.set_xlabel(FOUND_LABEL)
    figure.legend(loc="outside lower center", ncols=5)
    return figure


def l0(results: Results) -> Figure:
    """Draw the share found over L0 for every setting of the grids; a line marks the true L0."""
    cells = results.cells.set_index("cell")["true_l0"]

    def panel(axes: Axes, cell: str) -> None:
        tuning = results.tuning[results.tuning["cell"] == cell]
        for family, rows in tuning.dropna(subset=FOUND).groupby("family", sort=False):
            colour, _, marker = style.look_of(str(family))
            shown = rows[rows["l0"] > 0]
            label = name_of(str(family))
            axes.plot(shown["l0"], 100 * shown[FOUND], marker, color=colour, ms=3, label=label)
        axes.axvline(cells[cell], color=style.GREY, lw=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())

    figure = style.panels(list(cells.index), panel, 2.6)
    for axes in figure.axes:
        axes.set_xlabel("active units of a sample")
    figure.supylabel(FOUND_LABEL, fontsize=9)
    handles = {
        text: handle
        for axes in figure.axes
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    return figure
