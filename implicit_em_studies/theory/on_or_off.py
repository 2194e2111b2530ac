"""Experiment: units that are each on or off, and which parts of their derivation they need.

Every run aims at a number of active units (L0). Unexplained variance is that of the test samples.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Tables
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.tables import over_seeds, rows_of

VARIANTS = {
    "score": "EM, as the project trains it",
    "through": "score matching of F itself",
    "without_slab": "EM without the slab",
    "without_error": "EM without the squared error",
    "tied_topk": "tied TopK",
    "tied_batch_topk": "tied BatchTopK",
}
"""Names of the variants, as the tables show them."""
HARD = ("tied_topk", "tied_batch_topk")
"""The limits of a vanishing temperature, whose number of active units is imposed."""
L0 = (4, 8, 16)
RATE = 3e-3
"""The only rate of most variants. They are compared at it."""
COLUMNS = {
    "L0": ("l0", ".2f"),
    "unexplained by the rows (%)": ("fvu", ".2f"),
    "by a ridge decoder (%)": ("ridge_fvu", ".2f"),
    "probe (%)": ("probe_accuracy", ".2f"),
}
"""Columns of the table: the key and the format of each."""


def measure(runs: Sequence[Run]) -> Tables:
    """Return ``runs``, a row for each run."""
    names = ("seed", "l0", "dead_units", "probe_accuracy", "fvu", "ridge_fvu")
    rows = [
        {
            "variant": run.sweep.removeprefix("on_or_off_"),
            "target": run.cfg.model.l0,
            "rate": run.cfg.lr.value,
            **{name: run.metrics().get(name) for name in names},
        }
        for run in runs
    ]
    return {"runs": pd.DataFrame(rows)}


def at_best(runs: pd.DataFrame, variant: str, target: int) -> pd.Series:
    """Return the FVU of a variant by seed, at the rate of its least mean."""
    own = rows_of(runs, variant=variant, target=target)
    means = own.groupby("rate")["fvu"].agg(lambda values: values.mean(skipna=False))
    return rows_of(own, rate=means.idxmin()).set_index("seed")["fvu"]


def at_rate(runs: pd.DataFrame, variant: str, target: int, column: str) -> pd.Series:
    """Return a measure of a variant by seed, at the rate that all variants have."""
    return rows_of(runs, variant=variant, target=target, rate=RATE).set_index("seed")[column]


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each L0, variant and rate, over the seeds."""
    names = {"aim": "target", "model": "variant", "rate": "rate"}
    return over_seeds(runs.replace({"variant": VARIANTS}), names, COLUMNS)


LINES = {
    "score": (style.BLACK, "-"),
    "through": (style.BLUE, "-"),
    "without_slab": (style.ORANGE, "--"),
    "tied_topk": (style.GREEN, "-"),
    "tied_batch_topk": (style.PURPLE, "-"),
}
"""Looks of the variants that the figure shows."""


def variances(tables: Tables) -> Figure:
    """Draw the unexplained variance of variants over L0."""
    figure, panels = style.row({"fvu": "by the rows", "ridge_fvu": "by a ridge decoder"}, 3.2)
    runs = rows_of(tables["runs"], rate=RATE)
    for key, axes in panels.items():
        for variant, (colour, line) in LINES.items():
            means = 100 * rows_of(runs, variant=variant).groupby("target")[key].mean()
            axes.plot(means, line, color=colour, marker="o", ms=3, label=VARIANTS[variant])
        axes.set(xlabel="active units", xticks=L0)
    panels["fvu"].set_ylabel("unexplained variance (%)")
    style.legend_below(figure, panels["fvu"], 3)
    return figure


EXPERIMENT = Experiment(
    title="Units that are on or off",
    sweeps=[f"on_or_off_{name}" for name in VARIANTS],
    protocol="137f20e37706f8ee",
    measure=measure,
    shown={"runs": summary},
    pictures={"variances": variances},
)
