"""Experiment 4, dynamics: the meaning of the epoch of convergence.

The variance term is unbounded. Under SGD a unit's variance grows as t. The loss then falls as
``-K log t`` and changes by ``K / t`` in an epoch, whatever the rate. It passes the rule's threshold
near ``t = K / threshold``. Under Adam the variance grows as t², which doubles both.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from implicit_em.metrics.convergence import convergence_epoch
from implicit_em_studies.shared import statistics

POWER_OF_T = {"sgd": 1, "adam": 2}  # the exponent in t of the variances, by the law
THRESHOLDS = (0.5, 1.0, 2.0)
FITTED_FROM = 10  # first epoch of the fits in log t; before it the layer leaves its initialisation
AFTER = 50  # epochs over which the loss is followed past the paper's epoch of convergence
MEASURED = {
    "trajectory/row_angle": "angle",
    "trajectory/correlation_change": "correlation",
    "trajectory/probe_accuracy": "probe",
}
SETTLING = [
    *("optimizer", "hidden", "at"),
    *(f"{name}_{when}" for name in MEASURED.values() for when in ("at", "end")),
    *("loss_after", "epochs_after"),
]


def _by_width(runs: pd.DataFrame) -> Iterator[Any]:
    yield from runs.sort_values(["optimizer", "hidden"]).itertuples()


def crossings(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the epoch of convergence at each threshold, by the law and as measured.

    ``measured`` is NaN if the run was too short to cross the threshold; ``epochs`` is its length.
    """
    rows = [
        {
            "optimizer": run.optimizer,
            "hidden": run.hidden,
            "threshold": threshold,
            "predicted": POWER_OF_T[run.optimizer] * run.hidden / threshold,
            "measured": convergence_epoch(run.history["train/loss"].tolist(), threshold),
            "epochs": len(run.history),
        }
        for run in _by_width(runs)
        for threshold in THRESHOLDS
    ]
    return pd.DataFrame(rows).astype({"measured": float})


def trends(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the exponent of the median variance in t, the loss's slope in log t, and dead units.

    Both are least-squares fits over all epochs from the tenth on.
    """
    rows = []
    for run in _by_width(runs):
        late = run.history[run.history["epoch"] >= FITTED_FROM]
        power = POWER_OF_T[run.optimizer]
        log_t = np.log(late["epoch"])
        rows.append(
            {
                "optimizer": run.optimizer,
                "hidden": run.hidden,
                "exponent": statistics.slope(log_t, late["trajectory/log_variance"]),
                "exponent_predicted": power,
                "loss_slope": statistics.slope(log_t, late["train/loss"]),
                "loss_slope_predicted": -power * run.hidden,
                "dead_units": run.dead_units,
            }
        )
    return pd.DataFrame(rows)


def settling(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the state of training ``at`` the paper's epoch of convergence (threshold 1) and after.

    ``angle`` is the turn of the rows in an epoch, in degrees, and ``correlation`` the change of the
    correlations in an epoch. ``probe_at`` is the last probe up to the epoch. ``loss_after`` is the
    fall of the loss in the ``epochs_after``, at most 50. A run that never crosses has NaN, except
    at its end.
    """
    rows = []
    for run in _by_width(runs):
        history = run.history.set_index("epoch").rename(columns=MEASURED)
        loss, end = history["train/loss"], int(history.index[-1])
        states = history[list(MEASURED.values())].ffill()
        at = convergence_epoch(loss.tolist())
        row = {"optimizer": run.optimizer, "hidden": run.hidden, "at": at}
        row |= states.loc[end].add_suffix("_end").to_dict()
        if at is not None:
            until = min(at + AFTER, end)
            row |= states.loc[at].add_suffix("_at").to_dict()
            row |= {"loss_after": loss[at] - loss[until], "epochs_after": until - at}
        rows.append(row)
    return pd.DataFrame(rows, columns=SETTLING).astype({"at": float})
