"""Made-up evidence: what a study would hand to the criteria if it measured the paper's figures."""

from math import log

import numpy as np
import pandas as pd

from implicit_em_studies.paper.evidence import Evidence

RATES = (1e-4, 1e-3, 1e-2, 1e-1)
NOISE = (-1.0, 0.0, 1.0, 0.5, -0.5)


def runs(seeds, **columns):
    """One row a seed; a pair (value, spread) varies over the seeds."""
    rows = [{"seed": seed} for seed in range(1, seeds + 1)]
    for row, noise in zip(rows, NOISE, strict=False):
        for name, value in columns.items():
            row[name] = value[0] + noise * value[1] if isinstance(value, tuple) else value
    return pd.DataFrame(rows)


def as_published() -> Evidence:
    draws = pd.DataFrame(
        {
            "gradient": "autograd",
            "dtype": ["float32", "float64"],
            "batch": 64,
            "components": 128,
            "scale": 1.0,
            "correlation": 1.0,
            "max_error": [4e-8, 7e-17],
            "bound": [6e-7, 1e-15],
        }
    )
    ablation = pd.concat(
        [
            runs(3, loss="lse", dead_units=64, responsibility_entropy=(log(64), 1e-4)),
            runs(3, loss="lse_var", dead_units=0, redundancy=(1875.0, 40)),
            runs(3, loss="lse_var_tc", dead_units=0, redundancy=(29.0, 0.4)),
        ]
    )
    encoder = runs(5, model="encoder", probe_accuracy=(0.934, 0.002), density=(0.268, 0.002))
    sae = runs(5, model="sae", probe_accuracy=(0.903, 0.003), density=(0.503, 0.02))
    benchmark = pd.concat(
        [encoder.assign(parameters=50_240), sae.assign(parameters=101_200, silent_units=30)]
    )
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
            )
            for optimizer in ("sgd", "adam")
            for i, rate in enumerate(RATES)
        ]
    )
    widths = [(o, k) for o in ("sgd", "adam") for k in (16, 32, 64, 128)]
    crossings = pd.DataFrame(
        {
            "optimizer": [o for o, _ in widths],
            "hidden": [k for _, k in widths],
            "threshold": 1.0,
            "predicted": [k * (1.0 if o == "sgd" else 2.0) for o, k in widths],
            "measured": [70.0 if o == "sgd" else np.nan for o, _ in widths],
            "epochs": 160,
        }
    )
    settling = pd.DataFrame(
        {
            "optimizer": ["sgd"],
            "hidden": [64],
            "angle_at": [0.1],
            "loss_after": [30.0],
            "epochs_after": [50],
        }
    )
    prototypes = {
        "smoothness_share": (0.99, 0.005),
        "centroid": (0.6, 0.01),
        "centroid_control": (0.1, 0.001),
        "centroid_positive": (0.9, 0.01),
        "purity_chance": 0.15,
        "rows": 64,
        "purity_responsibility": (0.3, 0.01),
        "purity_activation": (0.7, 0.01),
    }
    features = pd.concat(
        [
            runs(
                5,
                model="encoder",
                matrix="encoder",
                units="all",
                centroid_share=(0.95, 0.01),
                **prototypes,
            ),
            runs(
                5,
                model="sae",
                matrix="encoder",
                units="all",
                centroid_share=(0.05, 0.01),
                **prototypes | {"smoothness_share": (0.06, 0.01)},
            ),
            *(
                runs(5, model="sae", matrix="encoder", units=units, **prototypes)
                for units in ("live", "silent")
            ),
        ]
    )
    return Evidence(
        draws=draws,
        ablation=ablation,
        benchmark=benchmark,
        dynamics=dynamics,
        crossings=crossings,
        settling=settling,
        features=features,
    )
