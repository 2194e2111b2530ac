"""The figures of the study: what the families explain over L0, and how often units are active."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from implicit_em.language.results import MEASURES, Results, summed
from implicit_em.metrics.densities import EDGES
from implicit_em.studies import figures as style
from implicit_em.studies.families import name_of


def over_l0(results: Results, name: str) -> Figure:
    """Draw a measure of every family over the active units, with the intervals of the bootstrap."""
    at = results.tests[name].at
    figure = Figure(figsize=(style.WIDTH, 4))
    axes = figure.subplots()
    for family in results.protocol.families:
        own = at[at["family"] == family].sort_values("target")
        if own.empty:
            continue
        colour, line, marker = style.look_of(family)
        look: Any = {"color": colour, "ls": line, "marker": marker, "ms": 5}
        axes.plot(own["target"], 100 * own["mean"], label=name_of(family), **look)
        low, high = 100 * own["mean_low"], 100 * own["mean_high"]
        axes.fill_between(own["target"], low, high, color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(results.protocol.l0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="active units of a token", ylabel=f"{MEASURES[name].title} (%)")
    axes.yaxis.label.set_wrap(True)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


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
