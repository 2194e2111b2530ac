"""Experiment: why L1 wins where 20 to 30 % of the units are active, and what makes up for it.

Every run is near one of two densities. Plain L1 has the weights and the rate that the comparison of
families has chosen. All others reach their density by a controlled weight: of L1 in ``placed``, of
LSE in the rest.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_em.base.threads import cores
from implicit_em.metrics.probe import linear_probe
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Shown, Tables
from implicit_em_studies.shared.measurements import Measurement, samples_of
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.tables import in_words, rows_of

VARIANTS = {
    "l1": "L1",
    "placed": "L1, placed biases",
    "random": "derived, random start",
    "derived": "derived",
    "derived_decay": "derived, decay",
    "hybrid_100": "hybrid, 100",
    "hybrid_10000": "hybrid, 10,000",
    "hybrid_100_decay": "hybrid, 100, decay",
    "hybrid_10000_decay": "hybrid, 10,000, decay",
}
"""Names of the variants, as the tables show them; numbers are weights of the squared error."""
DENSITIES = (0.2, 0.3)
"""Shares of active units that the variants are compared at."""
L1_WEIGHTS = {0.07: 0.2, 0.045: 0.3}
"""Approximate density for each weight of L1."""


def variant(cfg: Any) -> str:
    """Return which variant a run is, by its settings."""
    kind = cfg.model._target_.rpartition(".")[2]
    if "l1" in cfg.loss:
        return "l1" if cfg.model.l0 is None else "placed"
    if kind == "Encoder":
        return "random"
    name = "derived" if "mse" not in cfg.loss else f"hybrid_{cfg.loss.mse.weight:.0f}"
    return f"{name}_decay" if cfg.loss.decay.weight else name


def density(cfg: Any) -> float:
    """Return the density at which a run is compared."""
    if cfg.model.l0 is None:
        return L1_WEIGHTS[cfg.loss.l1.weight]
    return round(cfg.model.l0 / cfg.model.hidden, 2)


def at_equal_shares(
    rows_KD: np.ndarray, train_ND: np.ndarray, test_MD: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of both sets. Each unit is active on the same share of the training samples.

    The codes are ``max(0, w_j x - q_j)``, with the quantile ``q_j`` of the training samples. So
    they depend on the directions of the rows alone, up to the scale of each unit.
    """
    train_NK, test_MK = train_ND @ rows_KD.T, test_MD @ rows_KD.T
    thresholds_K = np.quantile(train_NK, 1 - share, axis=0)
    return np.maximum(train_NK - thresholds_K, 0), np.maximum(test_MK - thresholds_K, 0)


def _by_run(run: Run) -> dict[str, float]:
    """Return two probes of a run: of codes at equal shares, and of whether a unit is active."""
    model, (train, labels, test, test_labels) = run.model(), samples_of(run)
    rows_KD, share = model.weight.detach().numpy(), density(run.cfg)
    codes = {
        "probe_equal": at_equal_shares(rows_KD, train.numpy(), test.numpy(), share),
        "probe_binary": [model.encode(x).detach().numpy() > 0 for x in (train, test)],
    }
    return {
        name: linear_probe(of_train, labels.numpy(), of_test, test_labels.numpy(), threads=1)
        for name, (of_train, of_test) in codes.items()
    }


METRICS = ("density", "dead_units", "probe_accuracy", "ridge_fvu")
"""Metrics of a run that the tables show beside its two probes."""
PROBES = Measurement("reconstruction", 1, _by_run, METRICS)


def measure(runs: Sequence[Run]) -> Tables:
    """Return ``runs``, a row for each run, whose directory keeps its two probes."""
    measured = PROBES.of(runs, cores()).drop(columns=["family", "settings", "run"])
    settings = [{"variant": variant(run.cfg), "target": density(run.cfg)} for run in runs]
    return {"runs": pd.concat([pd.DataFrame(settings), measured], axis=1)}


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each density and variant, over the seeds."""
    columns = {
        "density (%)": ("density", ".1f"),
        "probe (%)": ("probe_accuracy", ".2f"),
        "probe, equal shares (%)": ("probe_equal", ".2f"),
        "probe, active or not (%)": ("probe_binary", ".2f"),
        "unexplained variance (%)": ("ridge_fvu", ".1f"),
    }
    rows = []
    for target, (key, name) in product(DENSITIES, VARIANTS.items()):
        group = rows_of(runs, target=target, variant=key)
        if len(group):
            place = {"at": f"{100 * target:.0f} %", "model": name}
            rows.append(place | in_words(group, columns))
    return pd.DataFrame(rows)


def variances(tables: Tables) -> Figure:
    """Draw the probe over the unexplained variance, at each density."""
    figure, panels = style.subplots(1, len(DENSITIES), 3.2, sharey=True)
    runs = tables["runs"]
    looks = {
        "l1": style.BLACK,
        "placed": style.GREY,
        "random": style.BLUE,
        "derived": style.VERMILION,
        "hybrid": style.GREEN,
    }
    marks = dict(zip(VARIANTS, "ososDos^D", strict=True))
    for axes, target in zip(panels, DENSITIES, strict=True):
        for key, name in VARIANTS.items():
            own, colour = rows_of(runs, target=target, variant=key), looks[key.partition("_")[0]]
            x, y = 100 * own["ridge_fvu"], 100 * own["probe_accuracy"]
            axes.plot(x, y, marks[key], color=colour, ms=4, mfc="none", label=name)
        axes.set(title=f"{100 * target:.0f} % active", xlabel="unexplained variance (%)")
    panels[0].set(ylabel="probe accuracy (%)")
    style.legend_below(figure, panels[0], 3)
    return figure


EXPERIMENT = Experiment(
    title="Why L1 wins, and what reconstruction adds",
    sweeps=[f"reconstruction_{n}" for n in ("l1", "placed", "random", "derived", "hybrid")],
    measure=measure,
    shown={"runs": Shown("Probes and unexplained variance over the seeds", summary)},
    pictures={"variances": variances},
)
