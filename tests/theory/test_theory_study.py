"""The study of open questions: criteria on made-up results, and a small study from end to end."""

import shutil

import pandas as pd
import pytest
from helpers import theory
from helpers.paths import ROOT

from implicit_em.base.errors import ConfigError
from implicit_em.theory.criteria import CLAIMS
from implicit_em.theory.protocol import PROTOCOL
from implicit_em.theory.study import EXPERIMENTS, STUDY, study
from implicit_em.theory.volume import CANDIDATES

CONF = ROOT / "conf"
SEEDS = (1, 2, 3)


def evidence():
    """What the study would measure if every answer were yes."""
    runs = [
        {
            "candidate": candidate,
            "lr": rate,
            "weight": 1.0,
            "seed": seed,
            "settled": 50.0,
            "dead_units": 0,
        }
        for candidate in CANDIDATES
        for rate in (1e-3, 3e-3, 1e-2)
        for seed in SEEDS
    ]
    probes = [
        {"candidate": candidate, "seed": seed, "probe": 0.94 + 0.001 * seed * (candidate != "unit")}
        for candidate in CANDIDATES
        for seed in SEEDS
    ]
    return {
        "volume": {"runs": pd.DataFrame(runs), "matched": pd.DataFrame(probes)},
        "lse": theory.lse(),
        "anomaly": theory.anomaly(),
    }


def changed(table, column, value, **where):
    def change(found):
        frame = found["volume"][table]
        rows = pd.concat([frame[key] == wanted for key, wanted in where.items()], axis=1).all(
            axis=1
        )
        found["volume"][table] = frame.assign(**{column: frame[column].mask(rows, value)})
        return found

    return change


def both(*changes):
    def change(found):
        for one in changes:
            found = one(found)
        return found

    return change


NEVER = float("nan")
FLIPS = [
    ("decay_settles", "partly", changed("runs", "settled", NEVER, candidate="decay", lr=1e-2)),
    ("decay_settles", "no", changed("runs", "settled", NEVER, candidate="decay", seed=2)),
    ("decay_settles", "no", changed("runs", "dead_units", 1, candidate="decay", seed=2)),
    ("decay_keeps_the_probe", "partly", changed("matched", "probe", 0.934, candidate="decay", seed=1)),
    ("decay_keeps_the_probe", "no", changed("matched", "probe", 0.93, candidate="decay")),
    (
        "others_do_as_well",
        "partly",
        both(*(changed("matched", "probe", 0.9, candidate=name) for name in ("hinge", "penalty", "unit"))),
    ),
    (
        "others_do_as_well",
        "no",
        both(*(changed("runs", "dead_units", 1, candidate=name) for name in ("hinge", "penalty", "unit"))),
    ),
]  # fmt: skip
FLIPS += theory.FLIPS


@pytest.mark.parametrize("key", CLAIMS.by_key)
def test_made_up_results_answer_yes(key):
    finding = CLAIMS.by_key[key].judge(evidence())
    assert finding.outcome == "yes"
    assert finding.measured
    assert finding.why


@pytest.mark.parametrize(("key", "verdict", "change"), FLIPS)
def test_a_failing_result_flips_the_verdict(key, verdict, change):
    assert CLAIMS.by_key[key].judge(change(evidence())).outcome == verdict


def test_every_verdict_is_flipped_by_some_result():
    assert {(key, verdict) for key, verdict, _ in FLIPS} >= {(key, "no") for key in CLAIMS.by_key}


@pytest.mark.parametrize("claim", CLAIMS.by_key.values(), ids=lambda claim: claim.key)
def test_every_criterion_says_when_it_is_met(claim):
    assert claim.criterion.startswith("Yes if")
    assert claim.experiment in EXPERIMENTS


def test_the_files_hold_the_protocol_that_the_code_pins(tmp_path):
    everything = list(EXPERIMENTS)
    assert STUDY.digests(everything, STUDY.plan(everything, tmp_path, CONF)) == PROTOCOL


@pytest.fixture
def thin(tmp_path):
    """A configuration folder whose long sweeps have two values left of each axis."""
    conf = shutil.copytree(CONF, tmp_path / "conf")
    long = {
        "null,0,1,2,3,4,5,6,7,8,9": "null,3",
        "0.1,0.3,1,3,10": "0.1,1",
        "0.1,0.25,0.5,1,2,4": "1,2",
    }
    for file in (conf / "experiment" / "theory").iterdir():
        for values, left in long.items():
            file.write_text(file.read_text().replace(f": {values}\n", f": {left}\n"))
    return conf


@pytest.mark.usefixtures("coarse")
def test_a_small_study_writes_everything_and_goes_on(
    small_mnist, tmp_path, thin, monkeypatch, caplog
):
    monkeypatch.setattr("implicit_em.theory.anomaly.cores", lambda: 1)  # no other processes
    caplog.set_level("INFO")
    overrides = [f"data.root={small_mnist}", "data.batch_size=64", "trainer.max_epochs=2"]
    overrides += ["seed=1", "logger=csv"]
    page = study(tmp_path / "trial", overrides=overrides, workers=2, conf=thin)
    report = page.with_suffix(".md").read_text()
    assert "TRIAL with data.batch_size=64" in report
    assert not (tmp_path / "trial" / "verdicts.json").exists()
    for name, experiment in EXPERIMENTS.items():
        assert f"## {experiment.title}" in report
        for picture in experiment.pictures:
            assert (tmp_path / "trial" / "figures" / f"{name}_{picture}.png").stat().st_size > 500
    assert caplog.text.count("Fashion-MNIST is left out") == 1
    assert "Fashion-MNIST was not in the folder of the data" in report
    caplog.clear()
    study(tmp_path / "trial", overrides=overrides, workers=2, conf=thin)
    assert "to train" not in caplog.text


def test_a_trial_may_not_write_where_the_protocol_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="results/theory is for the protocol alone"):
        study(experiments=["volume"], overrides=["trainer.max_epochs=2"], conf=CONF)
    with pytest.raises(ConfigError, match="nothing: no such experiment; allowed: volume"):
        study(experiments=["nothing"], conf=CONF)
