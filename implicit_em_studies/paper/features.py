"""Experiment 5, features: the weight rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import implicit_em
from implicit_em.metrics import SILENT_SHARE
from implicit_em.metrics.feature_grid import draw_grid
from implicit_em.training.measurement import energies_of
from implicit_em_studies.paper.prototypes import describe, find_prototypes, purities
from implicit_em_studies.paper.tables import as_text
from implicit_em_studies.shared.experiment import Experiment, Measured
from implicit_em_studies.shared.figures import BLUE, GREEN, GREY, ORANGE, bar, row, subplots
from implicit_em_studies.shared.measurements import samples_of
from implicit_em_studies.shared.runs import Run, matrices_of, table

SATURATING = 0.005  # share of weights beyond the scale; a few pixels at the border would set it


def measure(runs: Sequence[Run]) -> Measured:
    """Return how much rows are like prototypes, as ``features``, and the first seed's ``weights``.

    ``features`` has a row for each run, matrix and kind of units. ``weights`` are of shape
    ``(K, D)``, for samples of the ``sample_shape``.
    """
    images, labels_N, test_images, test_labels_N = samples_of(runs[0])
    sample_shape = runs[0].spec.build_data().sample_shape
    targets = find_prototypes(images.numpy(), labels_N.numpy(), sample_shape)
    shown = table(runs, ["features"])
    rows, weights = [], {}
    run: Any
    for run in shown.itertuples():
        model = implicit_em.load(run.directory)
        energies_NK = energies_of(model, test_images).astype(np.float64)
        of_units = purities(energies_NK, test_labels_N.numpy())
        silent_K = np.abs(energies_NK).max(0) <= SILENT_SHARE * np.abs(energies_NK).mean()
        kinds = {"all": np.full_like(silent_K, True), "live": ~silent_K, "silent": silent_K}
        for matrix, rows_KD in matrices_of(model).items():
            if run.seed == shown["seed"].min():
                weights[run.model, matrix] = rows_KD
            for units in (name for name, chosen_K in kinds.items() if chosen_K.any()):
                chosen_KD = rows_KD[kinds[units]].astype(np.float64)
                case = {"model": run.model, "matrix": matrix, "units": units, "seed": run.seed}
                case["rows"] = len(chosen_KD)
                extra = of_units if (matrix, units) == ("encoder", "all") else {}
                rows.append(case | describe(chosen_KD, targets) | extra)
    return {"features": pd.DataFrame(rows), "weights": weights, "sample_shape": sample_shape}


def _matrices_side_by_side(features: pd.DataFrame) -> pd.DataFrame:
    means = features.groupby(["model", "matrix", "units"]).mean().drop(columns="seed").T
    means.columns = means.columns.map("{0[0]}, {0[1]} rows, {0[2]} units".format)
    named = means.reset_index(names="measure").replace({"measure": {"_": " "}}, regex=True)
    return as_text(named)


def features(measured: Measured) -> Figure:
    """Draw the weight rows of both models as images."""
    titles = {
        ("encoder", "encoder"): "derived: encoder rows",
        ("sae", "encoder"): "SAE: encoder rows",
        ("sae", "decoder"): "SAE: decoder columns",
    }
    figure, panels = row(titles, 3.2)
    for place, axes in panels.items():
        rows_KD = measured["weights"][place]
        draw_grid(axes, rows_KD, measured["sample_shape"], "bottom", SATURATING)
    return figure


def prototypes(measured: Measured) -> Figure:
    """Draw the shares of rows that are more like the data than their permuted control."""
    figure, axes = subplots(1, 1, 2.6)
    measures = ("class_mean", "centroid", "smoothness")
    kinds = {
        ("encoder", "encoder", "live"): ("derived: encoder rows", BLUE),
        ("sae", "encoder", "live"): ("SAE: encoder rows, live units", ORANGE),
        ("sae", "encoder", "silent"): ("SAE: encoder rows, silent units", GREY),
        ("sae", "decoder", "live"): ("SAE: decoder columns, live units", GREEN),
    }
    by_kind = measured["features"].set_index(["model", "matrix", "units"]).sort_index()
    for number, (kind, (label, colour)) in enumerate(kinds.items()):
        if kind not in by_kind.index:
            continue
        for x, measure in enumerate(measures):
            centre, name = x + 0.2 * (number - 1.5), None if x else label
            shares = 100 * by_kind.loc[[kind], f"{measure}_share"]
            bar(axes, centre, shares, 0.18, 0.05, color=colour, label=name)
    axes.axhline(5, color=GREY, ls="--", lw=1)
    axes.set_xticks(range(3), ["class mean", "k-means centroid", "smoothness"])
    axes.set(ylabel="rows above the control (%)", ylim=(0, 108))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


EXPERIMENT = Experiment(
    title="Experiment 5: features",
    sweeps=["features"],
    protocol="b98e3525a25d7037",
    measure=measure,
    shown={"features": _matrices_side_by_side},
    pictures={"figure3": features, "figure9": prototypes},
    unwritten=["weights", "sample_shape"],
)
