"""The figures on one language model: measures over active units, and densities."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from implicit_em_studies.language.protocol import MEASURES
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.tables import name_of, rows_of

if TYPE_CHECKING:
    from implicit_em_studies.language.results import LanguageResults


def over_l0(results: "LanguageResults", name: str) -> Figure:
    """Draw a measure of every family over the active units, with the intervals of the bootstrap.

    Losses inside the model are drawn as ratios to those of the reference.
    """
    is_loss = name in ("excess_ce", "kl")
    own = rows_of(results.tests, measure=name, over=results.over[0])
    ends = ["ahead", "low", "high"] if is_loss else ["mean", "mean_low", "mean_high"]
    figure, axes = style.subplots(1, 1, 4)
    for family in results.protocol.families:
        rows = rows_of(own, family=family).set_index("target")[ends].reindex(results.protocol.l0)
        if rows.isna().all(axis=None):
            continue
        shown = -rows.to_numpy() if is_loss else rows.to_numpy()
        value, low, high = (np.exp(shown) if is_loss else 100 * shown).T
        colour, line, marker = style.look_of(family)
        look: Any = {"color": colour, "ls": line, "marker": marker, "ms": 5}
        axes.plot(rows.index, value, label=name_of(family), **look)
        axes.fill_between(rows.index, low, high, color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log", base=2)
    style.plain_logarithm(axes.xaxis)
    axes.set_xticks(results.protocol.l0)
    unit = f"over {name_of(results.over[0])}'s" if is_loss else "(%)"
    axes.set(xlabel="active units of a token", ylabel=f"{MEASURES[name]} {unit}")
    axes.yaxis.label.set_wrap(True)
    style.legend_below(figure, axes, columns=4)
    return figure


def densities(results: "LanguageResults") -> Figure:
    """Draw the share of a family's units in each bin of density, at the L0 that is shown first."""
    finals = rows_of(results.finals, target=results.shown_at)
    activity = "tokens that activate a unit, up to (%)"
    return style.density_histograms(results.protocol.families, finals, 1.7, activity)
