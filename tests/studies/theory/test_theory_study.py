"""The study of open questions: criteria on made-up results, and a small study from end to end."""

from functools import partial, reduce

import pandas as pd
import pytest
from helpers.paths import ROOT, copied_configuration
from helpers.theory import changed, evidence

from implicit_em_studies.theory.criteria import CLAIMS
from implicit_em_studies.theory.explicit_em import EXPLICIT, best, end_of, largest_fall
from implicit_em_studies.theory.protocol import PROTOCOL
from implicit_em_studies.theory.study import STUDY

CONF = ROOT / "conf"
EXPERIMENTS = STUDY.experiments


volume, em = partial(changed, "volume"), partial(changed, "explicit_em")
layer, auroc = partial(changed, "depth", "layers"), partial(changed, "anomaly", "aurocs", "auroc")
said = partial(changed, "lse", "responsibilities")
rebuilt = partial(changed, "reconstruction", "runs")
switched = partial(changed, "on_or_off", "runs")
revived = partial(changed, "dead_units", "runs")


def slower(factor):
    """All forms of explicit EM take longer."""

    def change(found):
        curves = found["explicit_em"]["curves"]
        explicit = curves["method"].isin(EXPLICIT)
        seconds = curves["seconds"].where(~explicit, factor * curves["seconds"])
        found["explicit_em"]["curves"] = curves.assign(seconds=seconds)
        return found

    return change


def both(*changes):
    return lambda found: reduce(lambda found, change: change(found), changes, found)


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
    ("second_layer_reads_better", "partly", layer("sparse_probe_5", 0.8, way="joint", layers=2, layer=2)),
    ("second_layer_reads_better", "partly", layer("sparse_probe_5", 0.95, way="turns", layers=2, layer=1, seed=1)),
    ("second_layer_reads_better", "no", layer("sparse_probe_5", 0.95, way="one", units=70)),
    ("joint_is_better", "partly", layer("sparse_probe_5", 0.9, way="joint", layers=3, layer=3)),
    ("joint_is_better", "no", layer("sparse_probe_5", 0.9, way="joint", seed=2)),
    ("layers_need_not_wait", "partly", layer("sparse_probe_5", 0.898, way="together", layers=2, layer=2, seed=1)),
    ("layers_need_not_wait", "no", layer("sparse_probe_5", 0.94, way="together", layers=3, layer=3)),
    ("upper_units_are_mixtures", "partly", layer("carried", 30.0, way="joint", layers=2, layer=2)),
    ("upper_units_are_mixtures", "partly", layer("agreement", 0.1, way="turns", layers=2, layer=2)),
    ("upper_units_are_mixtures", "no", both(layer("carried", 30.0, way="joint"), layer("agreement", 0.1, way="turns"))),
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
    ("the_lead_is_in_directions", "partly", rebuilt("probe_equal", 0.9, variant="l1", target=0.2)),
    ("the_lead_is_in_directions", "no", rebuilt("probe_equal", 0.9, variant="l1", seed=1)),
    ("the_lead_is_in_directions", "no", rebuilt("probe_accuracy", 0.95, variant="derived")),
    ("decay_closes_the_gap", "partly", rebuilt("probe_accuracy", 0.93, variant="derived_decay", target=0.3)),
    ("decay_closes_the_gap", "no", rebuilt("probe_accuracy", 0.95, variant="l1", seed=2)),
    ("the_hybrid_beats_l1", "partly", rebuilt("probe_accuracy", 0.94, variant="hybrid_10000_decay", target=0.2)),
    ("the_hybrid_beats_l1", "no", rebuilt("probe_accuracy", 0.95, variant="l1", seed=2)),
    ("the_probe_follows_the_variance", "partly", rebuilt("ridge_fvu", 0.01, variant=("random", "hybrid_100", "derived"), target=0.3)),
    ("the_probe_follows_the_variance", "no", rebuilt("ridge_fvu", 0.01, variant="random")),
    ("lse_counts", "partly", changed("lse", "regimes", "count_explains", 0.8, decay=0, seed=2)),
    ("lse_counts", "no", changed("lse", "regimes", "l1_explains", 0.97, decay=0, seed=1)),
    ("lse_counts", "yes", changed("lse", "regimes", "count_explains", 0.8, decay=0.1)),
    ("lse_counts", "no", changed("lse", "regimes", "count_explains", 0.2, decay=0, seed=3)),
    ("a_temperature_gives_meaning", "partly", said("information", 0.4, activation="ReLU", seed=3)),
    ("a_temperature_gives_meaning", "partly", said("perplexity_share", 0.6, activation="ReLU")),
    ("a_temperature_gives_meaning", "partly", said("probe_at_one", 0.99, activation="ReLU")),
    ("a_temperature_gives_meaning", "partly", said("probe_at_one", None, activation="ReLU")),
    ("a_temperature_gives_meaning", "no", said("information", 0.4)),
    ("a_temperature_gives_meaning", "no", said("probe_accuracy", 0.9)),
    ("low_energy_is_a_match", "partly", said("purity_most", 0.6)),
    ("low_energy_is_a_match", "yes", said("purity_most", 0.6, activation=("Abs", "Square"))),
    ("low_energy_is_a_match", "no", said("purity_least", 0.15, activation=("Softplus", "Abs", "Square"), seed=2)),
    ("identities_hold", "partly", switched("of_inputs", 1e-9, variant="through", target=8)),
    ("identities_hold", "no", switched(["of_energies", "of_inputs"], 1e-9, variant="score")),
    ("both_terms_are_needed", "partly", switched("ridge_fvu", 0.3, variant="without_slab", target=4, seed=2)),
    ("both_terms_are_needed", "no", switched("ridge_fvu", 0.6, variant="score", target=16)),
    ("they_may_be_held", "partly", switched("fvu", 0.31, variant="score", seed=2)),
    ("they_may_be_held", "no", switched("fvu", 0.31, variant="score", target=16)),
    ("denoising_does_as_well", "partly", switched("fvu", 0.308, variant="denoising", seed=2, target=4)),
    ("denoising_does_as_well", "no", switched("fvu", 0.29, variant="denoising", target=4)),
    ("temperature_is_the_residual", "partly", switched("temperature", 0.7, target=16)),
    ("temperature_is_the_residual", "no", switched("temperature", 0.1)),
    ("responsibilities_say_more", "partly", switched("probe_r", 0.9, target=(4, 16), seed=2)),
    ("responsibilities_say_more", "no", switched("probe_on", 0.95)),
    ("volume_terms_add", "partly", switched("ridge_fvu", 0.3, variant="decorrelation")),
    ("volume_terms_add", "yes", switched("ridge_fvu", 0.3, variant="decorrelation", weight=1e-4)),
    ("volume_terms_add", "no", switched("ridge_fvu", 0.298, variant=("variance", "decorrelation"))),
    ("soft_beats_hard", "partly", switched("fvu", 0.2, variant="tied_topk")),
    ("soft_beats_hard", "partly", switched("fvu", 0.2, variant=("tied_topk", "tied_batch_topk"), target=(4, 8), rate=3e-3)),
    ("soft_beats_hard", "no", switched("fvu", 0.2, variant=("tied_topk", "tied_batch_topk"), seed=2)),
    ("units_settle", "partly", changed("on_or_off", "settling", "settled", NEVER, lr=1e-2)),
    ("units_settle", "yes", changed("on_or_off", "settling", "settled", NEVER, epochs=200)),
    ("units_settle_longer", "partly", changed("on_or_off", "settling", "settled", NEVER, lr=1e-2)),
    ("units_settle_longer", "no", changed("on_or_off", "settling", "dead_units", 1, epochs=200, seed=2)),
    ("units_settle", "no", changed("on_or_off", "settling", "dead_units", 1, seed=2)),
    ("centring_revives", "partly", revived("probe_accuracy", 0.89, samples="centre")),
    ("centring_revives", "no", revived("silent_units", 12, samples="centre", seed=2)),
    ("remedies_add", "partly", revived("probe_accuracy", 0.912, remedy="auxiliary", samples="centre")),
    ("remedies_add", "no", revived("probe_accuracy", 0.91, remedy="auxiliary", samples="centre")),
    ("centred_units_settle", "partly", changed("dead_units", "settling", "settled", NEVER, lr=1e-2)),
    ("centred_units_settle", "yes", changed("dead_units", "settling", "settled", NEVER, epochs=200)),
    ("centred_units_settle", "no", changed("dead_units", "settling", "dead_units", 1, seed=2)),
    ("centred_units_settle_longer", "partly", changed("dead_units", "settling", "settled", NEVER, lr=1e-2)),
    ("centred_units_settle_longer", "no", changed("dead_units", "settling", "dead_units", 1, epochs=200, seed=2)),
    ("evidence_beats_references", "yes", auroc(0.95, method="gmm", kind="fashion")),
    ("evidence_beats_references", "partly", auroc(0.95, method="gmm", kind=("fashion", "digit"))),
    ("evidence_beats_references", "no", auroc(0.95, method="sae")),
    ("evidence_beats_references", "no", auroc(0.5, method="today", seed=2)),
    ("evidence_with_decay_beats_references", "partly", auroc(0.95, kind=("fashion", "digit"))),
    ("evidence_with_decay_beats_references", "no", auroc(0.5, method="decay")),
    ("evidence_beats_the_count", "partly", auroc(0.95, method="today_active", kind=("digit", "corrupted"))),
    ("evidence_beats_the_count", "no", auroc(0.95, method="today_active")),
]  # fmt: skip


@pytest.mark.parametrize("key", CLAIMS.by_key)
def test_made_up_results_answer_yes(key):
    finding = CLAIMS.by_key[key].judge(evidence())
    assert finding.outcome == "yes"
    assert finding.measured
    assert finding.why


@pytest.mark.parametrize(("key", "verdict", "change"), FLIPS)
def test_a_failing_result_flips_the_verdict(key, verdict, change):
    assert CLAIMS.by_key[key].judge(change(evidence())).outcome == verdict


def test_another_objective_is_judged_at_the_middle_rate():
    change = volume("runs", "dead_units", 1, candidate="unit", lr=1e-2)
    finding = CLAIMS.by_key["others_do_as_well"].judge(change(evidence()))
    assert finding.measured.startswith("3 of 3")


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


@pytest.mark.slow
def test_the_files_hold_the_protocol_that_the_code_pins(tmp_path):
    everything = list(EXPERIMENTS)
    assert STUDY.digests(everything, STUDY.runs(everything, tmp_path, CONF)) == PROTOCOL


def test_the_files_hold_the_protocol_of_a_short_experiment(tmp_path):
    assert STUDY.is_protocol(["volume"], STUDY.runs(["volume"], tmp_path, CONF))


@pytest.fixture
def thin(tmp_path):
    """A configuration folder whose long sweeps have two values left of each axis."""
    conf = copied_configuration(tmp_path / "conf")
    long = {
        "null,0,1,2,3,4,5,6,7,8,9": "null,3",
        "0.1,0.3,1,3,10": "0.1,1",
        "0.1,0.25,0.5,1,2,4": "1,2",
    }
    file = conf / "theory.yaml"
    for values, left in long.items():
        assert f'"{values}"' in file.read_text()
        file.write_text(file.read_text().replace(f'"{values}"', f'"{left}"'))
    return conf


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize(
    "experiments", [["volume"], pytest.param(list(EXPERIMENTS), marks=pytest.mark.slow)], ids=len
)
def test_a_small_study_writes_everything_and_goes_on(
    experiments, small_mnist, tmp_path, thin, monkeypatch, caplog
):
    monkeypatch.setattr("implicit_em_studies.theory.anomaly.cores", lambda: 1)  # no other processes
    caplog.set_level("INFO")
    overrides = [f"data.root={small_mnist}", "data.batch_size=64", "trainer.max_epochs=1"]
    overrides += ["seed=1", "logger=csv"]
    workers = min(2, len(experiments))
    place = (tmp_path / "trial", experiments, overrides, workers, thin)
    (page,) = STUDY.run(*place)
    report = page.with_suffix(".md").read_text()
    assert "TRIAL with data.batch_size=64" in report
    assert not (tmp_path / "trial" / "verdicts.json").exists()
    for name in experiments:
        experiment = EXPERIMENTS[name]
        assert f"## {experiment.title}" in report
        for picture in experiment.pictures:
            assert f"](figures/{name}_{picture}.png)" in report
            assert (tmp_path / "trial" / "figures" / f"{name}_{picture}.png").stat().st_size > 500
    if "anomaly" in experiments:
        assert caplog.text.count("Fashion-MNIST is left out") == 1
        assert "Fashion-MNIST was not in the folder of the data" in report
    caplog.clear()
    STUDY.run(*place)
    assert "to train" not in caplog.text
