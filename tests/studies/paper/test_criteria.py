"""Each verdict on made-up results: the paper's own reproduce it, and each failing one flips it."""

from functools import partial

import numpy as np
import pytest
from helpers.made_up_study import as_published
from helpers.studies import changed

from implicit_em_studies.paper.criteria import CLAIMS

draws, ablation = partial(changed, "theorem", "draws"), partial(changed, "ablation", "ablation")
benchmark, features = (partial(changed, name, name) for name in ("benchmark", "features"))
dynamics, crossings = (partial(changed, "dynamics", name) for name in ("dynamics", "crossings"))
SGD, ADAM = {"optimizer": "sgd"}, {"optimizer": "adam"}
DERIVED, SAE = {"model": "encoder"}, {"model": "sae"}
ROWS = {"matrix": "encoder", "units": "all"}
ENCODER, SAE_ROWS = DERIVED | ROWS, SAE | ROWS
PARTLY, NOT = "partly", "not reproduced"
LEVEL = dynamics("probe_accuracy", 0.922, **SGD)
EARLY = dynamics("final_loss", -520.0, **SGD)
BY_WIDTH = crossings("measured", lambda e: 1.1 * np.array([16, 32, 64, 128] * 2), **SGD)

FLIPS = [
    ("identity", PARTLY, draws("max_error", 2e-7, dtype="float32")),
    ("identity", PARTLY, draws("max_error", 2e-15, dtype="float64")),
    ("identity", NOT, draws("correlation", 0.999, dtype="float32")),
    ("identity", NOT, draws("correlation", np.nan, dtype="float64")),
    ("lse_collapses", PARTLY, ablation("dead_units", 63, loss="lse", seed=2)),
    ("lse_collapses", PARTLY, ablation("responsibility_entropy", 3.8, loss="lse")),
    ("lse_collapses", NOT, ablation("dead_units", 32, loss="lse", seed=1)),
    ("variance_prevents_death", PARTLY, ablation("dead_units", 1, loss="lse_var", seed=3)),
    ("variance_prevents_death", NOT, ablation("dead_units", 64, loss="lse_var", seed=3)),
    ("decorrelation_prevents_redundancy", PARTLY, ablation("redundancy", 90.0, loss="lse_var_tc")),
    ("decorrelation_prevents_redundancy", PARTLY, ablation("redundancy", 5.0, loss="lse_var_tc")),
    ("decorrelation_prevents_redundancy", NOT, ablation("redundancy", 1900.0, loss="lse_var_tc")),
    ("probe_accuracy", PARTLY, benchmark("probe_accuracy", lambda p: p - 0.007, **DERIVED)),
    ("probe_accuracy", PARTLY, benchmark("probe_accuracy", lambda p: p + 0.007, **DERIVED)),
    ("probe_accuracy", NOT, benchmark("probe_accuracy", lambda p: p - 0.02, **DERIVED)),
    ("better_than_sae", PARTLY, benchmark("probe_accuracy", lambda p: p + 0.015, **SAE)),
    ("better_than_sae", NOT, benchmark("probe_accuracy", lambda p: p + 0.031, **SAE)),
    ("twice_as_sparse", PARTLY, benchmark("density", 0.35, **SAE)),
    ("twice_as_sparse", PARTLY, benchmark("density", 0.8, **SAE)),
    ("twice_as_sparse", NOT, benchmark("density", 0.2, **SAE)),
    ("twice_as_sparse", NOT, benchmark("density", 0.0, **SAE, seed=2)),
    ("half_the_parameters", PARTLY, benchmark("parameters", 60_000, **DERIVED, seed=1)),
    ("half_the_parameters", NOT, benchmark("parameters", 101_200, **DERIVED)),
    ("sgd_converges", PARTLY, BY_WIDTH),
    ("sgd_converges", PARTLY, crossings("measured", np.nan, **SGD, hidden=128)),
    ("sgd_converges", NOT, dynamics("convergence_epoch", np.nan, **SGD, lr=1e-4, seed=1)),
    ("sgd_converges", NOT, dynamics("convergence_epoch", 95, **SGD, lr=1e-1)),
    ("independent_of_rate", PARTLY, dynamics("convergence_epoch", lambda e: e + 20, **SGD, lr=1e-1)),
    ("independent_of_rate", NOT, dynamics("convergence_epoch", lambda e: e + 60, **SGD, lr=1e-1)),
    ("independent_of_rate", NOT, dynamics("convergence_epoch", np.nan, **SGD, lr=1e-1)),
    ("independent_of_rate", NOT, dynamics("convergence_epoch", np.nan, **SGD)),
    ("rate_decides_quality", PARTLY, LEVEL),
    ("rate_decides_quality", PARTLY, EARLY),
    ("rate_decides_quality", NOT, lambda evidence: EARLY(LEVEL(evidence))),
    ("adam_never_converges", PARTLY, crossings("measured", 128, **ADAM, hidden=64)),
    ("adam_never_converges", NOT, dynamics("convergence_epoch", 90, **ADAM, lr=1e-1, seed=2)),
    ("sgd_matches_adam", PARTLY, dynamics("probe_accuracy", lambda p: p - 0.0095, **SGD, seed=1)),
    ("sgd_matches_adam", NOT, dynamics("probe_accuracy", lambda p: p - 0.02, **SGD)),
    ("no_unit_dies", PARTLY, dynamics("dead_units", 1, **SGD, lr=1e-2, seed=1)),
    ("no_unit_dies", NOT, dynamics("dead_units", 1, **ADAM, lr=1e-3, seed=1)),
    ("features_are_prototypes", PARTLY, features("centroid", 0.4, **ENCODER)),
    ("features_are_prototypes", NOT, features("centroid_share", 0.7, **ENCODER)),
    ("features_are_prototypes", NOT, features("smoothness_share", 0.7, **ENCODER)),
    ("sae_rows_are_noise", PARTLY, features("centroid_share", 0.3, **SAE_ROWS)),
    ("sae_rows_are_noise", NOT, features("smoothness_share", 0.6, **SAE_ROWS)),
]  # fmt: skip


def judged(key, evidence):
    claim = CLAIMS.by_key[key]
    return claim.judge(evidence[claim.experiment])


def test_the_published_results_are_reproduced():
    found = CLAIMS.judge(as_published())
    assert found["claim"].tolist() == list(CLAIMS.by_key)
    assert (found["verdict"] == "reproduced").all()
    assert found["measured"].all()
    assert found["why"].str.endswith(".").all()
    assert not (found["measured"] + found["why"]).str.contains("nan").any()


@pytest.mark.parametrize(("key", "verdict", "change"), FLIPS)
def test_a_failing_result_flips_the_verdict(key, verdict, change):
    finding = judged(key, change(as_published()))
    assert finding.outcome == verdict
    assert finding.why.endswith(".")


def test_every_claim_has_a_result_that_flips_it():
    assert {key for key, verdict, _ in FLIPS if verdict == NOT} == set(CLAIMS.by_key)


def test_the_verdict_on_convergence_tells_both_truths():
    first, second = judged("sgd_converges", BY_WIDTH(as_published())).why.split(". But ")
    assert first.startswith("The number came back")
    assert second.startswith("it is not convergence")
    assert "K = 64: 64 predicted, 70 measured" in second
