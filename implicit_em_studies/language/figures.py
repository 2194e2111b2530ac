"""The figures on one language model: measures over active units, and densities."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_em_studies.language.protocol import LOSSES, MEASURES
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.tables import name_of, rows_of

if TYPE_CHECKING:
    from implicit_em_studies.language.results import LanguageResults


def over_l0(results: "LanguageResults", name: str) -> Figure:
    """Draw a measure of every family over the active units, with the intervals of the bootstrap.

    Losses inside the model are drawn as ratios to those of the reference.
    """
    own = rows_of(results.tests, measure=name, over=results.over[0])
    return _over(results, own, name, "active units of a token")


def over_tokens(results: "LanguageResults") -> Figure:
    """Draw the variance explained over the tokens of the harvests, with these intervals."""
    own = rows_of(results.learned, over=results.over[0])
    return _over(results, own, next(iter(MEASURES)), "tokens harvested")


def _over(results: "LanguageResults", own: pd.DataFrame, name: str, along: str) -> Figure:
    is_loss, places = name in LOSSES, own["target"].unique()
    ends = ["ahead", "low", "high"] if is_loss else ["mean", "mean_low", "mean_high"]
    figure, axes = style.subplots(1, 1, 4)
    for family in results.protocol.families:
        rows = rows_of(own, family=family).set_index("target")[ends].reindex(places)
        if rows.isna().all(axis=None):
            continue
        shown = -rows.to_numpy() if is_loss else rows.to_numpy()
        value, low, high = (np.exp(shown) if is_loss else 100 * shown).T
        colour, line, marker = style.look_of(family)
        look: Any = {"color": colour, "ls": line, "marker": marker, "ms": 5}
        axes.plot(rows.index, value, label=name_of(family), **look)
        axes.fill_between(rows.index, low, high, color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.minorticks_off()
    unit = f", ratio to {name_of(results.over[0])}" if is_loss else " (%)"
    axes.set(xlabel=along, ylabel=f"{results.protocol.measures[name]}{unit}")
    axes.yaxis.label.set_wrap(True)
    style.legend_below(figure, axes, columns=4)
    return figure


def over_cost(results: "LanguageResults") -> Figure:
    """Draw what codes of so many sweeps leave unexplained over the time that they take.

    Numbers beside the points are those of the sweeps.
    """
    figure, axes = style.subplots(1, 1, 4)
    own = rows_of(results.readings, refit=0)
    means = own.groupby(["family", "read_sweeps"], sort=False)[["microseconds", "fvu"]].mean()
    for family, rows in means.groupby("family", sort=False):
        colour, line, marker = style.look_of(str(family))
        look: Any = {"color": colour, "ls": line, "marker": marker, "ms": 5}
        axes.plot(rows["microseconds"], 100 * rows["fvu"], label=name_of(str(family)), **look)
        for (_, sweeps), x, y in zip(rows.index, rows["microseconds"], rows["fvu"], strict=True):
            place = x, 100 * y
            axes.annotate(f"{sweeps}", place, (3, 3), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    style.plain_logarithm(axes.xaxis)
    axes.set(xlabel="microseconds to encode a token", ylabel="FVU (%)")
    style.legend_below(figure, axes, columns=4)
    return figure


def densities(results: "LanguageResults") -> Figure:
    """Draw the share of a family's units in each bin of density, at the L0 that is shown first."""
    finals = rows_of(results.finals, target=results.shown_at)
    activity = "tokens that activate a unit, up to (%)"
    return style.density_histograms(results.protocol.families, finals, 1.7, activity)
