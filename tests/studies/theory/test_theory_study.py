"""The study of open questions: criteria on made-up results, and a small study from end to end."""

from functools import partial

import pandas as pd
import pytest
from helpers.paths import ROOT, copied_configuration
from helpers.studies import changed
from helpers.theory import evidence

from implicit_em_studies.theory.criteria import CLAIMS
from implicit_em_studies.theory.explicit_em import EXPLICIT, best, end_of, largest_fall
from implicit_em_studies.theory.study import STUDY

CONF = ROOT / "conf"
EXPERIMENTS = STUDY.experiments
volume, em = partial(changed, "volume"), partial(changed, "explicit_em")
counted, said = partial(changed, "lse", "regimes"), partial(changed, "lse", "responsibilities")
switched = partial(changed, "on_or_off", "runs")


def slower(factor):
    """All forms of explicit EM take longer."""

    def change(found):
        curves = found["explicit_em"]["curves"]
        explicit = curves["method"].isin(EXPLICIT)
        seconds = curves["seconds"].where(~explicit, factor * curves["seconds"])
        found["explicit_em"]["curves"] = curves.assign(seconds=seconds)
        return found

    return change


NEVER = float("nan")
FLIPS = [
    ("decay_settles", "partly", volume("runs", "settled", NEVER, candidate="decay", lr=1e-2)),
    ("decay_settles", "no", volume("runs", "settled", NEVER, candidate="decay", seed=2)),
    ("decay_settles", "partly", volume("runs", "dead_units", 1, candidate="decay", lr=1e-2, seed=2)),
    ("decay_settles", "no", volume("runs", "dead_units", 1, candidate="decay", seed=2)),
    ("unit_rows_settle", "partly", volume("runs", "dead_units", 1, candidate="unit", lr=1e-3, seed=2)),
    ("unit_rows_settle", "no", volume("runs", "settled", NEVER, candidate="unit", seed=2)),
    ("decay_keeps_the_probe", "partly", volume("matched", "probe", 0.934, candidate="decay", seed=1)),
    ("decay_keeps_the_probe", "no", volume("matched", "probe", 0.93, candidate="decay")),
    ("others_do_as_well", "partly", volume("matched", "probe", 0.9, candidate=("hinge", "penalty", "unit"))),
    ("others_do_as_well", "no", volume("runs", "dead_units", 1, candidate=("hinge", "penalty", "unit"))),
    ("a_step_is_an_m_step", "partly", em("passes", "fall", 1e-5, seed=2)),
    ("a_step_is_an_m_step", "partly", em("passes", "fall_reference", 1e-10, seed=2)),
    ("a_step_is_an_m_step", "no", em("steps", "error", 1e-8, seed=2)),
    ("ahead_after_equal_passes", "partly", em("curves", "likelihood", 170.0, method="adam", **{"pass": 20})),
    ("ahead_after_equal_passes", "no", em("curves", "likelihood", 170.0, method="sgd")),
    ("ahead_after_equal_passes", "no", em("curves", "likelihood", 150.0, method="stochastic", seed=1)),
    ("ahead_after_equal_seconds", "partly", em("curves", "likelihood", 170.0, method="adam", **{"pass": 20})),
    ("ahead_after_equal_seconds", "no", em("curves", "likelihood", 170.0, method="adam")),
    ("ahead_after_equal_seconds", "no", slower(20)),
    ("components_are_as_good", "partly", em("finals", "purity", 0.73, method="stochastic", seed=1)),
    ("components_are_as_good", "no", em("finals", "purity", 0.70, method="stochastic")),
    ("components_are_as_good", "no", em("finals", "purity", 0.80, method="stochastic")),
    ("lse_counts", "partly", counted("count_explains", 0.8, decay=0, seed=2)),
    ("lse_counts", "no", counted("l1_explains", 0.97, decay=0, seed=1)),
    ("lse_counts", "yes", counted("count_explains", 0.8, decay=0.1)),
    ("lse_counts", "no", counted("count_explains", 0.2, decay=0, seed=3)),
    ("a_temperature_gives_meaning", "partly", said("information", 0.4, activation="ReLU", seed=3)),
    ("a_temperature_gives_meaning", "partly", said("perplexity_share", 0.6, activation="ReLU")),
    ("a_temperature_gives_meaning", "partly", said("probe_at_one", 0.99, activation="ReLU")),
    ("a_temperature_gives_meaning", "partly", said("probe_at_one", None, activation="ReLU")),
    ("a_temperature_gives_meaning", "no", said("information", 0.4)),
    ("a_temperature_gives_meaning", "no", said("probe_accuracy", 0.9)),
    ("low_energy_is_a_match", "partly", said("purity_most", 0.6)),
    ("low_energy_is_a_match", "yes", said("purity_most", 0.6, activation=("Abs", "Square"))),
    ("low_energy_is_a_match", "no", said("purity_least", 0.15, activation=("Softplus", "Abs", "Square"), seed=2)),
    ("the_error_is_needed", "partly", switched("ridge_fvu", 0.3, variant="without_error", target=4, seed=2)),
    ("the_error_is_needed", "no", switched("ridge_fvu", 0.7, variant="score")),
    ("the_slab_is_needed", "partly", switched("ridge_fvu", 0.3, variant="without_slab", target=4, seed=2)),
    ("the_slab_is_needed", "no", switched("ridge_fvu", 0.6, variant="score")),
    ("they_may_be_held", "partly", switched("fvu", 0.31, variant="score", seed=2)),
    ("they_may_be_held", "no", switched("fvu", 0.31, variant="score", target=16)),
    ("soft_beats_hard", "partly", switched("fvu", 0.2, variant="tied_topk")),
    ("soft_beats_hard", "partly", switched("fvu", 0.2, variant=("tied_topk", "tied_batch_topk"), target=(4, 8), rate=3e-3)),
    ("soft_beats_hard", "no", switched("fvu", 0.2, variant=("tied_topk", "tied_batch_topk"), seed=2)),
]  # fmt: skip


def outcome(key, found):
    claim = CLAIMS.by_key[key]
    return claim.judge(found[claim.experiment]).outcome


def test_made_up_results_answer_yes():
    found = CLAIMS.judge(evidence())
    assert (found["verdict"] == "yes").all()
    assert found[["measured", "why"]].all(axis=None)
    # Another objective is judged at the middle rate alone.
    elsewhere = volume("runs", "dead_units", 1, candidate="unit", lr=1e-2)
    assert outcome("others_do_as_well", elsewhere(evidence())) == "yes"


@pytest.mark.parametrize(("key", "verdict", "change"), FLIPS)
def test_a_failing_result_flips_the_verdict(key, verdict, change):
    assert outcome(key, change(evidence())) == verdict


def test_every_verdict_is_flipped_by_some_result():
    assert {(key, verdict) for key, verdict, _ in FLIPS} >= {(key, "no") for key in CLAIMS.by_key}


def test_the_best_setting_is_that_of_the_largest_mean_at_the_budget():
    rows = [
        ("adam", "0.1", 1, 10.0, 2.0),
        ("adam", "0.1", 2, 20.0, 4.0),
        ("sgd", "8", 1, 14.0, 1.0),
        ("sgd", "8", 2, 15.0, 2.0),
    ]
    columns = ["method", "rate", "pass", "likelihood", "seconds"]
    curves = pd.concat(pd.DataFrame(rows, columns=columns).assign(seed=seed) for seed in (1, 2))
    both = ("adam", "sgd")
    assert str(best(curves, both, "pass", 1)) == "SGD 8"
    at_end = best(curves, both, "pass", 2)
    assert (str(at_end), at_end.likelihoods.to_dict()) == ("Adam 0.1", {1: 20.0, 2: 20.0})
    assert end_of(curves, "seconds") == 2
    assert best(curves, ("adam",), "seconds", 3).likelihoods[1] == 15
    assert str(best(curves, both, "seconds", 1.5)) == "SGD 8"  # Adam's first pass is not over


def test_a_fall_is_relative_and_a_rise_is_none():
    assert largest_fall([-10.0, -20.0, -19.0, -30.0]) == pytest.approx(0.05)
    assert largest_fall([-10.0, -20.0]) == largest_fall([-10.0]) == 0


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n != "explicit_em" else ()) for n in EXPERIMENTS],
)
def test_the_files_hold_the_protocol_that_the_code_pins(tmp_path, name):
    runs = STUDY.runs([name], tmp_path, CONF)
    assert EXPERIMENTS[name].digest_among(runs) == EXPERIMENTS[name].protocol


@pytest.fixture
def thin(tmp_path):
    """A configuration folder whose long sweeps have one or two values left of each axis."""
    conf = copied_configuration(tmp_path / "conf")
    long = {
        '"0.1,0.3,1,3,10"': '"0.1,1"',
        '"0.1,0.25,0.5,1,2,4"': '"1,2"',
        "weight: 0.5,1,2": "weight: 1",
        "value: 3e-3,1e-2": "value: 3e-3",
    }
    file = conf / "theory.yaml"
    text = file.read_text()
    for values, left in long.items():
        assert values in text
        text = text.replace(values, left)
    file.write_text(text)
    return conf


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize(
    "experiments", [["volume"], pytest.param(list(EXPERIMENTS), marks=pytest.mark.slow)], ids=len
)
def test_a_small_study_writes_everything(experiments, small_mnist, tmp_path, thin):
    overrides = [f"data.root={small_mnist}", "data.batch_size=64", "trainer.max_epochs=1"]
    overrides += ["seed=1", "logger=csv"]
    workers = min(2, len(experiments))
    (page,) = STUDY.run(tmp_path / "trial", experiments, overrides, workers, thin)
    report = page.with_suffix(".md").read_text()
    assert "TRIAL with data.batch_size=64" in report
    assert not (page.parent / "verdicts.json").exists()
    for name in experiments:
        experiment = EXPERIMENTS[name]
        assert f"## {experiment.title}" in report
        for picture in experiment.pictures:
            assert f"](figures/{name}_{picture}.png)" in report
            assert (page.parent / "figures" / f"{name}_{picture}.png").stat().st_size > 500
