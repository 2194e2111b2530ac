"""A run in Python."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import implicit_em
from implicit_em.base.errors import DamagedError
from implicit_em.trained.evaluate import evaluate
from implicit_em.training.run import train


@pytest.fixture(scope="module")
def directory(composed, small, tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run"
    train(composed(*small, "probe=none", "metrics_every=1"), path)
    return path


@pytest.fixture
def copied(directory, tmp_path):
    """A directory of the run's small files, to damage."""
    for name in (".hydra/config.yaml", "metrics.json", "history.csv"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes((directory / name).read_bytes())
    return tmp_path / "run"


def test_a_run_has_what_its_directory_holds(directory):
    run = implicit_em.Run(str(directory))
    assert run.metrics == json.loads((directory / "metrics.json").read_text())
    assert list(run.history.index) == [1, 2]
    assert run.history.index.name == "epoch"
    assert run.history["train/loss"].iloc[-1] == run.metrics["final_loss"]
    assert list(run.steps.index) == list(range(1, 21))
    assert run.config.model.hidden == 5
    assert torch.equal(run.model.weight, implicit_em.load(directory).weight)
    assert run.evaluations == {}


def test_a_run_stands_for_its_directory(directory):
    run = implicit_em.Run(directory)
    x = torch.rand(20, 64)
    decoder = implicit_em.fit_decoder(run, x)
    assert torch.equal(decoder.weight, implicit_em.fit_decoder(directory, x).weight)
    assert evaluate(run)["l0"] == run.metrics["l0"]
    assert set(run.evaluations) == {"own"}


def test_steps_are_read_by_their_number(copied):
    none = implicit_em.Run(copied).steps
    assert (len(none), none.index.name) == (0, "step"), "an earlier run has logged none"
    (copied / "steps.csv").write_text("step,samples,loss,fvu\n10,640,2.5,\n20,1280,1.5,0.5\n")
    steps = implicit_em.Run(copied).steps
    assert list(steps.index) == [10, 20]
    assert np.isnan(steps["fvu"].iloc[0])
    expected = pd.DataFrame({"samples": [640, 1280], "loss": [2.5, 1.5]}, index=steps.index)
    assert steps[["samples", "loss"]].equals(expected)


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        (None, "not finished: no metrics.json; allowed are finished runs"),
        ({"status": "failed", "error": "too hot"}, "not finished: too hot"),
        ({"status": "interrupted", "error": None}, "not finished: interrupted"),
        ({"status": "completed"}, "not finished: files are missing"),
    ],
)
def test_a_run_that_is_not_finished_says_so_and_has_its_curves(copied, metrics, reason):
    (copied / "metrics.json").unlink()
    if metrics is not None:
        (copied / "metrics.json").write_text(json.dumps(metrics))
    run = implicit_em.Run(copied)
    assert len(run.history) == 2
    for name in ("metrics", "model"):
        with pytest.raises(ValueError, match=reason):
            getattr(run, name)


def test_what_is_no_run_or_damaged_is_named(copied, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run directory"):
        implicit_em.Run(tmp_path)
    for content in (b"\xff", b"hello"):
        (copied / "history.csv").write_bytes(content)
        with pytest.raises(DamagedError, match=r"history\.csv: no table"):
            assert implicit_em.Run(copied).history
    (copied / ".hydra/config.yaml").write_text("[")
    with pytest.raises(DamagedError, match=r"config\.yaml"):
        assert implicit_em.Run(copied).config
