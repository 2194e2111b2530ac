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


def on_or_off():
    left = {
        "score": 0.30,
        "through": 0.301,
        "without_slab": 0.33,
        "without_error": 0.6,
        "tied_topk": 0.31,
        "tied_batch_topk": 0.31,
    }
    runs = crossed(variant=left, target=(4, 8, 16), rate=(1e-3, 3e-3), seed=SEEDS)
    spread = 1e-4 * runs["seed"] * runs["variant"].map(list(left).index)
    fvu = runs["variant"].map(left) + 0.001 * runs["rate"] + spread
    return {"runs": runs.assign(fvu=fvu, ridge_fvu=fvu)}


def evidence():
    """What the study would measure if every answer were yes."""
    return {part.__name__: part() for part in (volume, explicit_em, lse, on_or_off)}
