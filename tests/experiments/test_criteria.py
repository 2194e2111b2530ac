"""Each verdict on made-up results: the paper's own reproduce it, and each failing one flips it."""

from dataclasses import replace
from math import log

import numpy as np
import pandas as pd
import pytest

from implicit_em.experiments.criteria import CLAIMS
from implicit_em.experiments.evidence import Evidence

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
        "silent_share": (0.4, 0.01),
        "purity_responsibility": (0.3, 0.01),
        "purity_activation": (0.7, 0.01),
    }
    features = pd.concat(
        [
            runs(5, model="encoder", matrix="encoder", centroid_share=(0.95, 0.01), **prototypes),
            runs(
                5,
                model="sae",
                matrix="encoder",
                centroid_share=(0.05, 0.01),
                **prototypes | {"smoothness_share": (0.06, 0.01)},
            ),
            runs(5, model="sae", matrix="decoder", centroid_share=(0.5, 0.01), **prototypes),
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


def changed(table, column, value, **where):
    """Published evidence with a column changed in some rows, by a number or a function of it."""

    def change(evidence):
        frame = getattr(evidence, table).reset_index(drop=True)
        rows = np.logical_and.reduce([frame[name] == wanted for name, wanted in where.items()])
        old = frame[column].astype(float)
        new = value(old) if callable(value) else value
        return replace(evidence, **{table: frame.assign(**{column: old.mask(rows, new)})})

    return change


SGD, ADAM = {"optimizer": "sgd"}, {"optimizer": "adam"}
DERIVED, SAE = {"model": "encoder"}, {"model": "sae"}
ENCODER, SAE_ROWS = DERIVED | {"matrix": "encoder"}, SAE | {"matrix": "encoder"}
PARTLY, NOT = "partly", "not reproduced"

FLIPS = [
    ("identity", PARTLY, changed("draws", "max_error", 2e-7, dtype="float32")),
    ("identity", PARTLY, changed("draws", "max_error", 2e-15, dtype="float64")),
    ("identity", NOT, changed("draws", "correlation", 0.999, dtype="float32")),
    ("lse_collapses", PARTLY, changed("ablation", "dead_units", 63, loss="lse", seed=2)),
    ("lse_collapses", PARTLY, changed("ablation", "responsibility_entropy", 3.8, loss="lse")),
    ("lse_collapses", NOT, changed("ablation", "dead_units", 32, loss="lse", seed=1)),
    ("variance_prevents_death", PARTLY, changed("ablation", "dead_units", 1, loss="lse_var", seed=3)),
    ("variance_prevents_death", NOT, changed("ablation", "dead_units", 64, loss="lse_var", seed=3)),
    ("decorrelation_prevents_redundancy", PARTLY, changed("ablation", "redundancy", 90.0, loss="lse_var_tc")),
    ("decorrelation_prevents_redundancy", PARTLY, changed("ablation", "redundancy", 5.0, loss="lse_var_tc")),
    ("decorrelation_prevents_redundancy", NOT, changed("ablation", "redundancy", 1900.0, loss="lse_var_tc")),
    ("probe_accuracy", PARTLY, changed("benchmark", "probe_accuracy", lambda p: p - 0.007, **DERIVED)),
    ("probe_accuracy", PARTLY, changed("benchmark", "probe_accuracy", lambda p: p + 0.007, **DERIVED)),
    ("probe_accuracy", NOT, changed("benchmark", "probe_accuracy", lambda p: p - 0.02, **DERIVED)),
    ("better_than_sae", PARTLY, changed("benchmark", "probe_accuracy", lambda p: p + 0.015, **SAE)),
    ("better_than_sae", NOT, changed("benchmark", "probe_accuracy", lambda p: p + 0.031, **SAE)),
    ("twice_as_sparse", PARTLY, changed("benchmark", "density", 0.35, **SAE)),
    ("twice_as_sparse", PARTLY, changed("benchmark", "density", 0.8, **SAE)),
    ("twice_as_sparse", NOT, changed("benchmark", "density", 0.2, **SAE)),
    ("half_the_parameters", PARTLY, changed("benchmark", "parameters", 60_000, **DERIVED, seed=1)),
    ("half_the_parameters", NOT, changed("benchmark", "parameters", 101_200, **DERIVED)),
    ("sgd_converges", PARTLY, changed("crossings", "measured", lambda e: 1.1 * np.array([16, 32, 64, 128] * 2), **SGD)),
    ("sgd_converges", NOT, changed("dynamics", "convergence_epoch", np.nan, **SGD, lr=1e-4, seed=1)),
    ("sgd_converges", NOT, changed("dynamics", "convergence_epoch", 95, **SGD, lr=1e-1)),
    ("independent_of_rate", PARTLY, changed("dynamics", "convergence_epoch", lambda e: e + 15, **SGD, lr=1e-1)),
    ("independent_of_rate", NOT, changed("dynamics", "convergence_epoch", lambda e: e + 60, **SGD, lr=1e-1)),
    ("independent_of_rate", NOT, changed("dynamics", "convergence_epoch", np.nan, **SGD, lr=1e-1)),
    ("independent_of_rate", NOT, changed("dynamics", "convergence_epoch", np.nan, **SGD)),
    ("rate_decides_quality", PARTLY, changed("dynamics", "probe_accuracy", 0.922, **SGD)),
    ("rate_decides_quality", PARTLY, changed("dynamics", "final_loss", -520.0, **SGD)),
    ("adam_never_converges", PARTLY, changed("crossings", "measured", 128, **ADAM, hidden=64)),
    ("adam_never_converges", NOT, changed("dynamics", "convergence_epoch", 90, **ADAM, lr=1e-1, seed=2)),
    ("sgd_matches_adam", PARTLY, changed("dynamics", "probe_accuracy", lambda p: p - 0.0095, **SGD, seed=1)),
    ("sgd_matches_adam", NOT, changed("dynamics", "probe_accuracy", lambda p: p - 0.02, **SGD)),
    ("no_unit_dies", PARTLY, changed("dynamics", "dead_units", 1, **SGD, lr=1e-2, seed=1)),
    ("no_unit_dies", NOT, changed("dynamics", "dead_units", 1, **ADAM, lr=1e-3, seed=1)),
    ("features_are_prototypes", PARTLY, changed("features", "centroid", 0.4, **ENCODER)),
    ("features_are_prototypes", NOT, changed("features", "centroid_share", 0.7, **ENCODER)),
    ("features_are_prototypes", NOT, changed("features", "smoothness_share", 0.7, **ENCODER)),
    ("sae_rows_are_noise", PARTLY, changed("features", "centroid_share", 0.3, **SAE_ROWS)),
    ("sae_rows_are_noise", NOT, changed("features", "smoothness_share", 0.6, **SAE_ROWS)),
]  # fmt: skip


@pytest.mark.parametrize("key", CLAIMS)
def test_the_published_results_are_reproduced(key):
    finding = CLAIMS[key].judge(as_published())
    assert finding.outcome == "reproduced"
    assert finding.measured
    assert finding.why.endswith(".")
    assert "nan" not in finding.measured + finding.why


@pytest.mark.parametrize(("key", "verdict", "change"), FLIPS)
def test_a_failing_result_flips_the_verdict(key, verdict, change):
    finding = CLAIMS[key].judge(change(as_published()))
    assert finding.outcome == verdict
    assert finding.why.endswith(".")


def test_every_claim_has_a_result_that_flips_it():
    flipped = {key for key, *_ in FLIPS}
    assert flipped == set(CLAIMS)
    assert {key for key, verdict, _ in FLIPS if verdict == NOT} == set(CLAIMS) - {
        "rate_decides_quality"
    }


def test_rate_that_changes_nothing_does_not_decide_the_quality():
    evidence = changed("dynamics", "probe_accuracy", 0.922, **SGD)(as_published())
    evidence = changed("dynamics", "final_loss", -520.0, **SGD)(evidence)
    assert CLAIMS["rate_decides_quality"].judge(evidence).outcome == NOT


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.key)
def test_a_criterion_says_when_the_claim_is_reproduced_and_when_partly(claim):
    assert claim.criterion.startswith("Reproduced if")
    assert " Partly if " in claim.criterion
    assert "\n" not in claim.criterion


def test_the_verdict_on_convergence_tells_both_truths():
    change = changed(
        "crossings", "measured", lambda e: 1.1 * np.array([16, 32, 64, 128] * 2), **SGD
    )
    why = CLAIMS["sgd_converges"].judge(change(as_published())).why
    first, second = why.split(". But ")
    assert first.startswith("The number came back")
    assert second.startswith("it is not convergence")
    assert "K = 64: 64 predicted, 70 measured" in second
