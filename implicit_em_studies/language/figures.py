"""The figures on one language model: measures over active units, and densities."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.tables import name_of, rows_of

if TYPE_CHECKING:
    from implicit_em_studies.language.results import LanguageResults


def over_l0(results: "LanguageResults", name: str) -> Figure:
    """Draw a measure of every family over the active units, with the intervals of the bootstrap."""
    at = results.tests[name].at
    figure, axes = style.subplots(1, 1, 4)
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
    style.plain_logarithm(axes.xaxis)
    axes.set_xticks(results.protocol.l0)
    if name == "ce_recovered":
        _spread_near_one(axes)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
    axes.set(xlabel="active units of a token", ylabel=f"{results.protocol.measures[name]} (%)")
    axes.yaxis.label.set_wrap(True)
    style.legend_below(figure, axes, columns=4)
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


def densities(results: "LanguageResults") -> Figure:
    """Draw the share of a family's units in each bin of density, at the L0 of the tuning."""
    finals = rows_of(results.finals, target=results.tuned_at)
    activity = "tokens that activate a unit, up to (%)"
    return style.density_histograms(results.protocol.families, finals, 1.7, activity)
