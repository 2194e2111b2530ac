"""Figures 3 and 9: the weight rows."""

from matplotlib.figure import Figure

from implicit_em.metrics.feature_grid import draw_grid
from implicit_em_studies.paper.evidence import Evidence
from implicit_em_studies.shared.figures import BLUE, GREEN, GREY, ORANGE, WIDTH, bar

SATURATING = 0.005  # share of weights beyond the scale; a few pixels at the border would set it


def features(evidence: Evidence) -> Figure:
    """Draw the weight rows of both models as images."""
    figure = Figure(figsize=(WIDTH, 3.2))
    titles = {
        "encoder": "derived: encoder rows",
        "sae encoder": "SAE: encoder rows",
        "sae decoder": "SAE: decoder columns",
    }
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        draw_grid(axes, evidence.weights[name], evidence.sample_shape, "bottom", SATURATING)
        axes.set_title(title)
    return figure


def prototypes(evidence: Evidence) -> Figure:
    """Draw the shares of rows that are more like the data than their permuted control."""
    figure = Figure(figsize=(WIDTH, 2.6))
    axes = figure.add_subplot()
    measures = ("class_mean", "centroid", "smoothness")
    kinds = {
        ("encoder", "encoder", "live"): ("derived: encoder rows", BLUE),
        ("sae", "encoder", "live"): ("SAE: encoder rows, live units", ORANGE),
        ("sae", "encoder", "silent"): ("SAE: encoder rows, silent units", GREY),
        ("sae", "decoder", "live"): ("SAE: decoder columns, live units", GREEN),
    }
    by_kind = evidence.features.set_index(["model", "matrix", "units"]).sort_index()
    for number, (kind, (label, colour)) in enumerate(kinds.items()):
        if kind not in by_kind.index:
            continue
        rows = by_kind.loc[[kind]]
        for x, measure in enumerate(measures):
            centre, name = x + 0.2 * (number - 1.5), None if x else label
            shares = 100 * rows[f"{measure}_share"]
            bar(axes, centre, shares, 0.18, 0.05, color=colour, label=name)
    axes.axhline(5, color=GREY, ls="--", lw=1)
    axes.set_xticks(range(3), ["class mean", "k-means centroid", "smoothness"])
    axes.set(ylabel="rows above the control (%)", ylim=(0, 108))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
