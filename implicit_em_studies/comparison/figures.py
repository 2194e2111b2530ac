"""The figures of a part: curves over density, grids of settings, features, histograms."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from implicit_em.metrics.feature_grid import draw_grid
from implicit_em_studies.comparison.matching import at_density, on_front
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.tables import name_of, rows_of

if TYPE_CHECKING:
    from implicit_em_studies.comparison.results import ComparisonResults

DENSITY, VALIDATION = "active units on a sample (%)", "probe accuracy, validation (%)"
TICKS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
FEW_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SATURATING = 0.005
MARKERS = "os^DvPX*<"
VIRIDIS = colormaps["viridis"]
POINTS = 60  # densities at which a band is drawn
LEADER = {"arrowstyle": "-", "relpos": (0, 0.5), "color": "#bbbbbb", "lw": 0.5}
ENDS = 1 + 1e-9  # factor by which a curve reaches past its ends: logarithms round


def quality_over_density(results: "ComparisonResults") -> Figure:
    """Draw the finals' probe accuracy and unexplained variance over their density, with bands."""
    figure, (upper, lower) = style.subplots(2, 1, 8.2, sharex=True)
    _curves(upper, results, "probe_accuracy")
    upper.set(ylabel="probe accuracy, test (%)", xlabel="")
    _curves(lower, results, "least_squares_fvu")
    lower.set(ylabel="variance unexplained by the best linear decoder (%)")
    style.legend_below(figure, upper, columns=4)
    return figure


def _curves(axes: Axes, results: "ComparisonResults", value: str) -> None:
    for family in results.protocol.families:
        finals = results.finals[results.finals["family"] == family]
        if finals.empty:
            continue
        colour, line, marker = style.look_of(family)
        _band(axes, finals, "exact_density", value, color=colour, ls=line, lw=1.3, alpha=0.15)
        means = finals.groupby("settings")[["exact_density", value]].mean()
        axes.plot(means["exact_density"], 100 * means[value], marker, color=colour, ms=4.5)
        axes.plot([], [], marker, color=colour, ms=4.5, ls=line, lw=1.3, label=name_of(family))
    _density_axis(axes)
    _controls(axes, results.untrained, value)


def _band(
    axes: Axes, runs: pd.DataFrame, density: str, value: str, *, alpha: float, **line: Any
) -> None:
    """Draw the mean of the seeds' curves ± one deviation, where all seeds have a density."""
    seeds = runs.groupby("seed")
    first, last = seeds[density].min().max(), seeds[density].max().min()
    grid = np.geomspace(first, last, POINTS) if 0 < first < last else np.array([])
    of_seeds = [(rows[density], rows[value]) for _, rows in seeds]
    curves = np.array([[at_density(*curve, x, ENDS) for x in grid] for curve in of_seeds])
    middle = curves.mean(0)
    spread = curves.std(0, ddof=1) if len(curves) > 1 else np.zeros_like(middle)
    low, high = 100 * (middle - spread), 100 * (middle + spread)
    axes.fill_between(grid, low, high, color=line["color"], alpha=alpha, lw=0)
    axes.plot(grid, 100 * middle, **line)


def _controls(axes: Axes, controls: pd.DataFrame, value: str) -> None:
    """Mark each control and write its name beside the axes, also if it lies below them."""
    low, high = axes.get_ylim()
    low = max(0.0, low)
    axes.set_ylim(low, high)
    if controls.empty:
        return
    means = 100 * controls.groupby("family", sort=False)[["exact_density", value]].mean().dropna()
    means = means.sort_values(value)
    names = means[value].clip(low, high).to_numpy(copy=True)
    gap = (high - low) / 28
    for place in range(1, len(names)):  # no two names overlap, from the lowest up
        names[place] = max(names[place], names[place - 1] + gap)
    names -= max(0.0, names[-1] - high)
    for (family, density, height), name in zip(means.itertuples(), names, strict=True):
        axes.plot(density / 100, height, "x", color="#666666", ms=4)
        axes.annotate(
            f"{name_of(str(family))} {height:.1f}",
            (density / 100, height),
            (1.03, float(name)),
            textcoords=axes.get_yaxis_transform(),
            fontsize=7,
            color="#666666",
            va="center",
            annotation_clip=False,
            arrowprops=LEADER if low <= height <= high else None,
        )


def _density_axis(axes: Axes, ticks: Sequence[float] = TICKS) -> None:
    axes.set(xscale="log", xlabel=DENSITY, xlim=(TICKS[0], 1.1))
    axes.set_xticks(ticks, [f"{100 * x:g}" for x in ticks])
    axes.minorticks_off()


def grids(results: "ComparisonResults") -> Figure:
    """Draw every setting of every grid on validation samples, each family before all others."""
    tuning = results.tuning.dropna(subset=["density", "probe_accuracy"])
    tuning = tuning[tuning["density"] > 0]
    front = tuning[on_front(tuning, "density", "probe_accuracy")].sort_values("density")
    low = 100 * tuning["probe_accuracy"].quantile(0.02)
    top = 100 * tuning["probe_accuracy"].max()

    def panel(axes: Axes, family: str) -> None:
        rows = tuning[tuning["family"] == family]
        chosen = results.chosen[results.chosen["family"] == family]
        axes.step(*_points(front), where="post", color=style.GREY, lw=1)
        axes.plot(*_points(tuning), ".", color="#dddddd", ms=3)
        axes.plot(*_points(rows), ".", color=style.look_of(family).colour, ms=5)
        axes.plot(*_points(chosen), "o", mfc="none", mec=style.VERMILION, ms=8)
        axes.set_ylim(float(low) - 1, float(top) + 0.5)
        _density_axis(axes, FEW_TICKS)

    return style.panels(results.protocol.families, panel, 2.0, DENSITY, VALIDATION)


def _points(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the density of settings, and their probe accuracy in per cent."""
    return rows["density"], 100 * rows["probe_accuracy"]


def features(weights: Mapping[str, np.ndarray], sample_shape: Sequence[int]) -> Figure:
    """Draw the weight rows ``(K, D)`` of each family."""

    def panel(axes: Axes, family: str) -> None:
        draw_grid(axes, weights[family], sample_shape, "bottom", SATURATING)

    return style.panels(list(weights), panel, 3.2)


def histograms(results: "ComparisonResults", density: float) -> Figure:
    """Draw the units by how often they are active, for each family's setting at one density."""
    shown = at_target(results, density)
    activity = "active on at most so many of the test samples (%)"
    figure = style.density_histograms(list(shown["family"].unique()), shown, 1.8, activity)
    for axes in figure.axes:
        axes.set_ylim(0, 100)
        axes.grid(axis="x", visible=False)
    return figure


def at_target(results: "ComparisonResults", density: float) -> pd.DataFrame:
    """Return the finals of the settings that were chosen at a density."""
    return results.finals.merge(rows_of(results.chosen, target=density)[["family", "settings"]])
