"""Sweepers that optimise: what they maximise, and Optuna's."""

from importlib.util import find_spec

import pytest
from helpers.results import finished
from omegaconf import OmegaConf

from implicit_em.base.errors import ConfigError
from implicit_em.cli import composed as commands
from implicit_em.sweeps.summary import read_jobs
from implicit_em.training.results import check_objective, values_of

METRICS = {"probe_accuracy": 0.9, "density": 0.25, "redundancy": None}
OPTUNA = ["hydra/sweeper=optuna", "lr.value=interval(1e-4,1e-2)", "trainer.max_epochs=1"]

needs_optuna = pytest.mark.skipif(
    find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="needs the extra optuna"
)


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        ("null", METRICS),
        ("probe_accuracy", 0.9),
        ("-density", -0.25),
        ("[probe_accuracy,-density]", [0.9, -0.25]),
    ],
)
def test_the_task_returns_what_a_sweeper_maximises(objective, value, composed, monkeypatch):
    monkeypatch.setattr("implicit_em.training.run.train", lambda cfg: METRICS)
    assert commands._train.__wrapped__(composed(f"objective={objective}")) == value


def test_a_metric_that_is_null_is_named(caplog):
    assert values_of("-redundancy", METRICS) is None
    assert "objective=-redundancy: null for this run" in caplog.text


@pytest.mark.parametrize("objective", ["probe_acuracy", "-status", ["density", "versions"]])
def test_what_is_no_number_is_no_objective(objective):
    with pytest.raises(ConfigError, match=r"objective=.*: names no number of metrics\.json"):
        check_objective(objective, "linear")


@needs_optuna
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Deprecated API features detected")
def test_optuna_finds_the_best_of_four_trials_and_goes_on(sweep, capfd):
    typed = [*OPTUNA, "objective=probe_accuracy"]
    assert sweep(*typed, "hydra.sweeper.n_trials=2")[0] == 0
    capfd.readouterr()
    code, directory = sweep(*typed, "hydra.sweeper.n_trials=4")
    assert code == 0
    out, err = capfd.readouterr()
    assert out.count("is complete already: reused") == 2, "with its seed, it chooses the same"
    assert "4 jobs" in out
    assert err == ""
    jobs = read_jobs(directory)
    assert len(jobs) == len(finished(directory)) == 4
    assert jobs["lr.value"].between(1e-4, 1e-2).all()
    assert f"Best value: {jobs['probe_accuracy'].max()}" in out
    best = OmegaConf.load(directory / "optimization_results.yaml")
    (row,) = jobs[jobs["lr.value"] == best.best_params["lr.value"]].to_dict("records")
    assert row["probe_accuracy"] == best.best_value


@needs_optuna
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Deprecated API features detected")
def test_trials_without_a_value_are_said_and_the_others_go_on(sweep, capfd):
    typed = [*OPTUNA, "objective=-reconstruction_mse", "hydra.sweeper.n_trials=2"]
    code, directory = sweep(*typed)
    assert code == 1
    out, err = capfd.readouterr()
    assert out.count("objective=-reconstruction_mse: null for this run") == 2
    assert err == "error: objective: no trial has a value, so none is the best\n"
    assert list(read_jobs(directory)["status"]) == ["completed"] * 2
