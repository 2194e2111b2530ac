"""Made-up evidence: what a study would hand to the criteria if it measured the paper's figures."""

from math import log

import numpy as np
import pandas as pd

from helpers.studies import crossed

RATES = (1e-4, 1e-3, 1e-2, 1e-1)
NOISE = (-1.0, 0.0, 1.0, 0.5, -0.5)


def runs(seeds, **columns):
    """One row a seed; a pair (value, spread) varies over the seeds."""
    rows = [{"seed": seed} for seed in range(1, seeds + 1)]
    for row, noise in zip(rows, NOISE, strict=False):
        for name, value in columns.items():
            row[name] = value[0] + noise * value[1] if isinstance(value, tuple) else value
    return pd.DataFrame(rows)


def as_published():
    """What the study would measure, by experiment."""
    sizes = {"batch": 64, "components": 128, "scale": 1.0, "correlation": 1.0}
    draws = [("float32", 4e-8, 6e-7), ("float64", 7e-17, 1e-15)]
    draws = pd.DataFrame(draws, columns=["dtype", "max_error", "bound"])
    draws = draws.assign(gradient="autograd", **sizes)
    ablation = pd.concat(
        [
            runs(3, loss="lse", dead_units=64, responsibility_entropy=(log(64), 1e-4)),
            runs(3, loss="lse_var", dead_units=0, redundancy=(1875.0, 40)),
            runs(3, loss="lse_var_tc", dead_units=0, redundancy=(29.0, 0.4)),
            runs(3, loss="var_tc", dead_units=0, redundancy=28.0),
        ]
    ).assign(silent_units=0, density=0.27, probe_accuracy=0.9)
    entropies = {"lse_var": 3.77, "lse_var_tc": 3.85, "var_tc": 1.99}
    losses = {"lse": -532.05, "lse_var": -1170.0, "lse_var_tc": -999.0, "var_tc": -613.0}
    ablation["final_loss"] = ablation["loss"].map(losses)
    ablation["responsibility_entropy"] = ablation["responsibility_entropy"].fillna(
        ablation["loss"].map(entropies)
    )
    encoder = runs(5, model="encoder", probe_accuracy=(0.934, 0.002), density=(0.268, 0.002))
    sae = runs(5, model="sae", probe_accuracy=(0.903, 0.003), density=(0.503, 0.02))
    benchmark = pd.concat(
        [encoder.assign(parameters=50_240), sae.assign(parameters=101_200, silent_units=30)]
    ).assign(reconstruction=0.016, unexplained=0.24, dead_units=0)
    loss = {"sgd": (-520.0, -676.0, -795.0, -967.0), "adam": (-745.0, -999.0, -1215.0, -1420.0)}
    probe = {"sgd": (0.922, 0.926, 0.936, 0.935), "adam": (0.929, 0.935, 0.935, 0.931)}
    dynamics = pd.concat(
        [
            runs(
                3,
                optimizer=optimizer,
                lr=rate,
                final_loss=(loss[optimizer][i], 5),
                probe_accuracy=(probe[optimizer][i], 0.0005),
                convergence_epoch=(70.0, 1) if optimizer == "sgd" else np.nan,
                dead_units=0,
                silent_units=0,
            )
            for optimizer in ("sgd", "adam")
            for i, rate in enumerate(RATES)
        ]
    )
    crossings = crossed(optimizer=("sgd", "adam"), hidden=(16, 32, 64, 128))
    sgd = crossings["optimizer"] == "sgd"
    crossings = crossings.assign(
        threshold=1.0,
        predicted=crossings["hidden"] * np.where(sgd, 1.0, 2.0),
        measured=np.where(sgd, 70.0, np.nan),
        epochs=160,
    )
    settling = {"angle_at": [0.1], "loss_after": [30.0], "epochs_after": [50]}
    prototypes = {
        "matrix": "encoder",
        "units": "all",
        "smoothness_share": (0.99, 0.005),
        "centroid": (0.6, 0.01),
        "centroid_control": (0.1, 0.001),
        "centroid_positive": (0.9, 0.01),
        "purity_chance": 0.15,
        "rows": 64,
        "purity_responsibility": (0.3, 0.01),
        "purity_activation": (0.7, 0.01),
    }
    noise = {"smoothness_share": (0.06, 0.01), "centroid_share": (0.05, 0.01)}
    features = [
        runs(5, **prototypes, model="encoder", centroid_share=(0.95, 0.01)),
        runs(5, **prototypes | noise, model="sae"),
        *(runs(5, **prototypes | {"units": units}, model="sae") for units in ("live", "silent")),
    ]
    return {
        "theorem": {"draws": draws},
        "ablation": {"ablation": ablation},
        "benchmark": {"benchmark": benchmark},
        "dynamics": {
            "dynamics": dynamics,
            "crossings": crossings,
            "settling": pd.DataFrame({"optimizer": ["sgd"], "hidden": [64], **settling}),
        },
        "features": {"features": pd.concat(features)},
    }
