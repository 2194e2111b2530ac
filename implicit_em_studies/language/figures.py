"""The figures of the study: what the families explain over L0, and how often units are active."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from implicit_em.metrics.densities import EDGES
from implicit_em_studies.language.results import MEASURES, Results, summed
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.families import name_of


def over_l0(results: Results, name: str) -> Figure:
    """Draw a measure of every family over the active units, with the intervals of the bootstrap."""
    at = results.tests[name].at
    figure = Figure(figsize=(style.WIDTH, 4))
    axes = figure.subplots()
    for family in results.protocol.families:
        own = at[at["family"] == family].set_index("target")
        if own.empty:
            continue
        own = own.reindex(results.protocol.l0)  # a line breaks where its family is not compared
        colour, line, marker = style.look_of(family)
        look: Any = {"color": colour, "ls": line, "marker": marker, "ms": 5}
        axes.plot(own.index, own["mean"], label=name_of(family), **look)
        low, high = own["mean_low"], own["mean_high"]
        axes.fill_between(own.index, low, high, color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(results.protocol.l0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    if name == "ce_recovered":
        _spread_near_one(axes)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
    axes.set(xlabel="active units of a token", ylabel=f"{MEASURES[name].title} (%)")
    axes.yaxis.label.set_wrap(True)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _spread_near_one(axes: Axes) -> None:
    """Scale shares by the logarithm of what is missing to 1, from 0.002 upwards."""
    most = 1.002
    axes.set_yscale(
        "function",
        functions=(
            lambda shares: -np.log(np.maximum(most - shares, 0.001)),
            lambda scaled: most - np.exp(-scaled),
        ),
    )
    limits = axes.get_ylim()
    axes.set_yticks([-1, 0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1])
    axes.set_ylim(limits)  # ticks outside are not shown


def densities(results: Results) -> Figure:
    """Draw the share of a family's units in each bin of density, at the L0 of the tuning."""
    finals = summed(results.finals)
    finals = finals[finals["target"] == results.tuned_at]
    bins = [f"units_to_{edge:g}" for edge in EDGES]

    def panel(axes: Axes, family: str) -> None:
        own = finals[finals["family"] == family]
        if own.empty:
            return
        shares = own[["units_dead", *bins]].div(own["units"], axis=0).mean()
        axes.bar(np.arange(len(shares)), 100 * shares, color=style.look_of(family).colour)
        labels = ["dead", *(f"{100 * edge:g}" for edge in EDGES)]
        axes.set_xticks(range(0, len(labels), 3), labels[::3])

    x_label, y_label = "tokens that activate a unit, up to (%)", "units (%)"
    return style.panels(results.protocol.families, panel, 1.7, x_label, y_label)
