"""Made-up results of the theory study's experiments: what they would measure if all went well."""

import numpy as np
import pandas as pd

from helpers.studies import crossed
from implicit_em_studies.theory.volume import CANDIDATES

SEEDS = (1, 2, 3)
UNITS = ("ReLU", "Softplus", "Abs", "Square")


def volume():
    runs = crossed(candidate=CANDIDATES, lr=(1e-3, 3e-3, 1e-2), seed=SEEDS)
    matched = crossed(candidate=CANDIDATES, seed=SEEDS)
    matched["probe"] = 0.94 + 0.001 * matched["seed"] * (matched["candidate"] != "unit")
    return {"runs": runs.assign(weight=1.0, settled=50.0, dead_units=0), "matched": matched}


def depth():
    """Layers of nets that get better upwards, and a little better if trained jointly."""
    places = [("one", 1, 1, units) for units in (64, 70, 75)]
    ways = ("turns", "together", "joint")
    places += [(way, n, k, 64) for way in ways for n in (2, 3) for k in range(1, n + 1)]
    rows = [(*place, seed) for place in places for seed in SEEDS]
    found = pd.DataFrame(rows, columns=["way", "layers", "layer", "units", "seed"])
    probe = 0.8 + 0.05 * found["layer"] + 0.01 * (found["way"] == "joint")
    probe += 1e-4 * found["seed"] * found["layer"]
    found = found.assign(sparse_probe_1=0.7, sparse_probe_5=probe, top_purity=0.6, carried=5.0)
    return {"layers": found.assign(agreement=0.6 + 0.01 * found["seed"], chance=0.1)}


def explicit_em():
    settings = [("exact", "1"), ("stochastic", "0.3"), ("incremental", "")]
    settings += [("adam", "0.1"), ("sgd", "16")]
    rows = [(*setting, seed) for setting in settings for seed in SEEDS]
    finals = pd.DataFrame(rows, columns=["method", "rate", "seed"]).assign(purity=0.75, nmi=0.5)
    curves = finals.merge(pd.DataFrame({"pass": range(1, 21)}), "cross")
    likelihood = 160 + curves["seed"] / 10 - 10 / curves["pass"]
    likelihood += 5 * (curves["method"] == "stochastic")
    passes = pd.DataFrame({"seed": SEEDS, "fall": 1e-8, "fall_reference": 0.0})
    steps = {"seed": SEEDS, "error": 1e-14, "lowest_rate": 30.0, "largest_rate": 400.0}
    return {
        "finals": finals,
        "curves": curves.assign(seconds=0.5 * curves["pass"], likelihood=likelihood),
        "steps": pd.DataFrame(steps),
        "passes": passes,
    }


def reconstruction():
    probes = {
        "l1": 0.940,
        "placed": 0.938,
        "random": 0.925,
        "derived": 0.930,
        "derived_decay": 0.9405,
        "hybrid_100": 0.926,
        "hybrid_10000": 0.935,
        "hybrid_100_decay": 0.941,
        "hybrid_10000_decay": 0.945,
    }
    rows = crossed(variant=probes, target=(0.2, 0.3), seed=SEEDS)
    probe = rows["variant"].map(probes)
    shifted = probe + 1e-4 * rows["seed"] * (rows["variant"].map(list(probes).index) % 3)
    rows = rows.assign(density=rows["target"], probe_accuracy=shifted, probe_equal=shifted - 0.01)
    return {"runs": rows.assign(ridge_fvu=2 - 2 * probe)}


def lse():
    regimes = crossed(decay=(0.0, 0.1), seed=SEEDS)
    regimes = regimes.assign(activation="ReLU", weight=1.0, temperature=1.0, below=0.01, above=0.9)
    regimes = regimes.assign(soft_explains=0.99, count_explains=0.95)
    said = crossed(activation=UNITS, temperature=(0.1, 1.0), seed=SEEDS)
    said = said.assign(decay=0.1, weight=1.0, perplexity=20.0, perplexity_share=0.3)
    said = said.assign(purity_most=0.4, probe_accuracy=0.94)
    said["information"] = np.where(said["temperature"] < 1, 0.6, 0.1)
    said["probe_at_one"] = 0.94 + 0.001 * said["seed"]
    said["purity_least"] = np.where(said["activation"] == "ReLU", 0.2, 0.5) + 0.001 * said["seed"]
    regimes["l1_explains"] = 0.3 + 0.01 * regimes["seed"]
    return {"regimes": regimes, "responsibilities": said}


def anomaly():
    levels = {"today": 0.9, "decay": 0.9, "today_active": 0.7, "sae": 0.6}
    levels |= dict.fromkeys(("gmm", "kmeans", "forest"), 0.8)
    tasks = {"fashion": "fashion", "digit": "0", "corrupted": "blur"}
    rows = crossed(method=levels, kind=tasks, seed=SEEDS)
    rows["task"] = rows["kind"].map(tasks)
    return {"aurocs": rows.assign(auroc=rows["method"].map(levels) + 0.001 * rows["seed"])}


def on_or_off():
    left = {
        "score": 0.30,
        "through": 0.301,
        "denoising": 0.302,
        "without_slab": 0.33,
        "without_error": 0.6,
        "tied_topk": 0.31,
        "tied_batch_topk": 0.31,
    }
    runs = crossed(variant=left, target=(4, 8, 16), rate=(1e-3, 3e-3), seed=SEEDS)
    runs = runs.assign(fvu=runs["variant"].map(left) + 0.001 * runs["rate"], weight=0.0)
    more = crossed(variant=("variance", "decorrelation"), weight=(1e-4, 1e-3), seed=SEEDS)
    runs = pd.concat([runs, more.assign(target=8, rate=3e-3, fvu=0.2)], ignore_index=True)
    spread = 1e-4 * runs["seed"] * runs["variant"].map(list(runs["variant"].unique()).index)
    runs = runs.assign(fvu=runs["fvu"] + spread, temperature=0.3, residual=0.3 + spread)
    soft = ~runs["variant"].isin(["tied_topk", "tied_batch_topk"])
    runs = runs.assign(ridge_fvu=runs["fvu"], probe_accuracy=0.92, probe_on=0.9)
    runs = runs.assign(probe_r=0.91 + 0.001 * runs["seed"], of_energies=1e-16, of_inputs=1e-15)
    settling = crossed(lr=(1e-3, 3e-3, 1e-2), epochs=(100, 200), seed=SEEDS)
    settling = settling.assign(settled=30.0, dead_units=0)
    soft_only = ["temperature", "residual", "probe_r", "probe_on", "of_energies", "of_inputs"]
    return {"runs": runs.assign(**runs[soft_only].where(soft)), "settling": settling}


def dead_units():
    remedies = ("none", "annealed", "auxiliary", "restarted", "prior", "guard")
    runs = crossed(remedy=remedies, samples=("none", "centre"), target=(3, 6), seed=SEEDS)
    ahead = 0.01 * (runs["samples"] == "centre") + 0.01 * (runs["remedy"] == "auxiliary")
    runs = runs.assign(probe_accuracy=0.9 + ahead + 1e-4 * runs["seed"] * (1 + ahead), weight=0.0)
    runs = runs.assign(silent_units=10 - 500 * ahead + runs["seed"] * (1 + ahead), fvu=0.4)
    settling = crossed(lr=(1e-3, 3e-3, 1e-2), epochs=(100, 200), seed=SEEDS)
    return {"runs": runs, "settling": settling.assign(settled=30.0, dead_units=0, fvu=0.3)}


def evidence():
    """What the study would measure if every answer were yes."""
    parts = (volume, depth, explicit_em, reconstruction, lse, anomaly, on_or_off, dead_units)
    return {part.__name__: part() for part in parts}


def changed(experiment, table, column, value, **where):
    """Return a function that sets a column where others have one of some values."""

    def change(found):
        frame = found[experiment][table]
        rows = pd.Series(True, frame.index)
        for key, wanted in where.items():
            rows &= frame[key].isin(wanted if isinstance(wanted, tuple) else (wanted,))
        columns = [column] if isinstance(column, str) else column
        masked = {name: frame[name].mask(rows, value) for name in columns}
        found[experiment][table] = frame.assign(**masked)
        return found

    return change
