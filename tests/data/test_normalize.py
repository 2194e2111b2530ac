"""``data.normalize``: what runs train on, and what their models take."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from helpers import arrays
from helpers.lines import one_line
from helpers.results import metrics_of, results

import implicit_em
from implicit_em.base.errors import DamagedError
from implicit_em.trained.evaluate import evaluate, main
from implicit_em.trained.loading import load_weights
from implicit_em.training.directory import RunDirectory
from implicit_em.training.spec import RunSpec

OPTIONS = ("none", "centre", "standard", "scale", "l2", "zca")
SLOW = pytest.mark.slow
WIDTH = 8
BRIEF = [
    *("data=tensors", "data.path=X.npy", "data.labels=y.npy", "data.batch_size=64", "logger=csv"),
    *("model.hidden=8", "trainer.max_epochs=2", "trainer.precision=64-true", "data.val_size=40"),
    "picture=false",
]


def draw(count=300, seed=0):
    """Three classes in correlated columns far from 0, of different scales."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.random.default_rng(9).normal(size=(3, WIDTH))
    samples = centres[labels] + rng.normal(size=(count, WIDTH)) / 2
    samples[:, 1:] += samples[:, :-1]
    return (samples + 3) * np.arange(1, WIDTH + 1), labels


@pytest.fixture
def files(tmp_path, monkeypatch):
    """X.npy and y.npy in the working directory."""
    monkeypatch.chdir(tmp_path)
    samples, labels = draw()
    np.save("X.npy", samples)
    np.save("y.npy", labels)
    return tmp_path


ready = partial(arrays.ready, "X.npy")


@pytest.mark.parametrize("options", [("standard", "l2"), pytest.param(OPTIONS, marks=SLOW)])
def test_a_stacked_sweep_equals_runs_alone_and_its_models_take_raw_samples(
    command_line, files, options
):
    sweep = [f"data.normalize={','.join(options)}", "hydra/launcher=stacked"]
    assert command_line("-m", *BRIEF, *sweep, "hydra.sweep.dir=sweep") == 0
    raw, accuracies = torch.from_numpy(np.load("X.npy")), []
    found = [path.parent for path in files.glob("sweep/*/metrics.json")]
    jobs = {RunDirectory(job).read_config().data.normalize: job for job in found}
    for option in options:
        job = jobs[option]
        assert command_line(*BRIEF, f"data.normalize={option}", f"hydra.run.dir={option}") == 0
        assert results(job) == results(files / option)
        spec = RunSpec.of(RunDirectory(job).read_config())
        trained = spec.build_module(WIDTH).model
        load_weights(trained, RunDirectory(job))
        data = ready(normalize=option, val_size=40)
        for name, rows in rows_of(data).items():
            codes = trained(data.split(name)[0])
            assert torch.allclose(implicit_em.load(job)(raw[rows]), codes, rtol=0, atol=1e-6)
        accuracies.append(metrics_of(job)["probe_accuracy"])
    assert min(accuracies) > 0.5
    fingerprints = {metrics_of(files / option)["config_fingerprint"] for option in options}
    assert len(fingerprints) == len(options)


def rows_of(data):
    """The rows of the file in each split."""
    order = np.random.default_rng(data.split_seed).permutation(300)
    return {"train": np.sort(order[60:]), "test": np.sort(order[:60])}


def test_the_statistics_are_those_of_the_samples_trained_on(files):
    samples = np.load("X.npy")
    data = ready(normalize="standard", val_size=40)
    trained_on = rows_of(data)["train"][data.train_indices()]
    assert len(trained_on) == 200
    assert np.allclose(data.normalizer.mean, samples[trained_on].mean(0))
    samples[np.setdiff1d(np.arange(300), trained_on)] *= 100
    np.save("X.npy", samples)
    same = ready(normalize="standard", val_size=40)
    assert torch.equal(same.normalizer.mean, data.normalizer.mean)
    assert torch.equal(same.normalizer.factor, data.normalizer.factor)


def test_modules_share_what_they_normalise_alike(files):
    first = ready(normalize="zca")
    assert ready(normalize="zca", batch_size=7).split("train")[0] is first.split("train")[0]
    for other in ({"normalize": "scale"}, {"normalize": "zca", "val_size": 9}, {}):
        assert ready(**other).split("train")[0] is not first.split("train")[0]


def test_bytes_are_normalised_as_numbers_from_0_to_1(files):
    images = np.random.default_rng(0).integers(0, 256, (50, 2, 4), dtype=np.uint8)
    np.save("X.npy", images)
    x, _ = ready(normalize="centre", test_path="X.npy").split("train")
    assert x.dtype == torch.float32
    flat = torch.from_numpy(images).flatten(1) / 255
    assert torch.allclose(x, flat - flat.mean(0), atol=1e-6)


@pytest.mark.parametrize("model", ["encoder", "sae"])
def test_a_run_is_evaluated_by_its_own_statistics(composed, files, capsys, model):
    cfg = composed(*BRIEF, "data.normalize=standard", f"model={model}", "model.hidden=8")
    metrics = implicit_em.train(cfg, files / "run")
    again = evaluate("run")
    assert all(value == metrics[key] for key, value in again.items() if key != "status")
    other = {"_target_": "implicit_em.data.TensorDataModule", "path": "Z.npy"}
    np.save("Z.npy", np.load("X.npy") + 10)
    assert evaluate("run", other)["density"] != pytest.approx(metrics["density"], rel=0.01)
    capsys.readouterr()
    assert main(["run", "data.normalize=none"]) == 2
    line = "error: data.normalize=none: samples are normalised by the statistics of the run\n"
    assert one_line(capsys) == line
    assert main(["run", "data.batch_size=1,2"]) == 2
    assert one_line(capsys).startswith("error: data.batch_size=1,2: several values")


def test_a_model_without_its_statistics_is_refused(composed, files):
    implicit_em.train(composed(*BRIEF, "data.normalize=centre"), files / "run")
    path = files / "run/model.json"
    description = json.loads(path.read_text())
    assert description["normalize"] == "centre"
    for change in ({"normalize": "l2"}, {"normalize": None}):
        path.write_text(json.dumps(description | change))
        with pytest.raises(DamagedError, match="does not fit its model"):
            implicit_em.load("run")


ADVICE = {
    "unlike columns": (lambda x: x * 10.0 ** np.arange(WIDTH), "data.normalize=standard"),
    "far from 0": (lambda x: x + 100, "data.normalize=centre"),
}


@pytest.mark.parametrize("case", ADVICE)
def test_samples_of_an_unlucky_scale_get_one_line_of_advice(files, case):
    samples, (change, advice) = np.load("X.npy"), ADVICE[case]
    np.save("X.npy", samples - samples.mean(0))
    assert ready().remarks() == []
    np.save("X.npy", change(samples))
    (line,) = ready().remarks()
    assert ready().remarks() == [], "said once for the same samples"
    assert line.startswith("data: ")
    assert advice in line
    assert ready(normalize="standard").remarks() == []


def test_a_run_begins_with_the_advice(command_line, files, capfd):
    np.save("X.npy", np.load("X.npy") + 100)
    assert command_line(*BRIEF) == 0
    assert sum("data.normalize=" in line for line in capfd.readouterr().out.splitlines()) == 1
