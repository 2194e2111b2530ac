"""What is measured of a finished run is kept beside it, and goes with its weights."""

import json
import shutil
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.lines import one_line
from omegaconf import OmegaConf

import implicit_em
from implicit_em.base.errors import ConfigError
from implicit_em.metrics.reconstruction import fvu
from implicit_em.sweeps.summary import read_jobs
from implicit_em.trained.evaluate import evaluate, main
from implicit_em.trained.evaluations import OWN, columns, is_own, read, record
from implicit_em.trained.export import PLACES as EXPORTED
from implicit_em.training.directory import DERIVED, EVALUATIONS, RunDirectory
from implicit_em.training.spec import RunSpec
from implicit_em.viewer.exploring import PLACE

DATA = {"_target_": "implicit_em.data.TensorDataModule", "path": "a/X.npy", "final": "test"}


def written(folder, own=None, data=DATA, digest="d", weights="w" * 16, metrics=None, **options):
    found = SimpleNamespace(
        address="run",
        spec=SimpleNamespace(settings={"data": data}),
        data_digest=digest,
        digest=weights,
        output=folder,
        run=own and SimpleNamespace(read_config=lambda: OmegaConf.create({"data": own})),
    )
    return record(found, metrics or {"l0": 1.0}, options)["name"]


def test_the_same_measurement_replaces_itself_and_no_other(tmp_path):
    own = {**DATA, "digest": "d", "seed": 3, "normalize": "scale"}
    assert written(tmp_path, own=own) == OWN
    assert written(tmp_path, own=own, metrics={"l0": 2.0}) == OWN
    moved = {**DATA, "path": "b/X.npy", "seed": 7}
    assert written(tmp_path, own=own, data=moved) == OWN, "the digest says which data they are"
    others = [
        {"digest": "e"},
        {"data": DATA | {"final": "validation"}},
        {"inside": True},
        {"probes": []},
        {"probes": ["5_hist_fig_ismale"]},
        {"probes": ["5_hist_fig_ismale"], "all_latents": True},
        {"own": None},
    ]
    names = {written(tmp_path, **{"own": own, **other}) for other in others}
    assert len(names | {OWN}) == 8
    assert {f"{OWN}-inside", f"{OWN}-probes"} < names
    assert sum(map(is_own, names)) == 4
    others = written(tmp_path, own=own, digest="e", data=DATA | {"path": "own.npy"})
    assert others.startswith(OWN)
    assert not is_own(others)
    written(tmp_path, weights="v" * 16, own=own)
    assert written(tmp_path, digest="f", own=DATA, metrics={"l0": 3.0}) == OWN, "any content is"
    assert len(list((tmp_path / EVALUATIONS).iterdir())) == 11
    kept = read(tmp_path)[OWN]
    assert kept.keys() >= {"date", "data", "data_digest", "weights_digest", "versions", "options"}


def test_a_damaged_file_is_named_and_left_out(tmp_path, caplog):
    written(tmp_path, own=DATA)
    bare = json.dumps({"name": "bare", "date": "", "metrics": {"l0": 2.0}})
    for name, content in {"cut": "{", "other": "[1]", "bare": bare}.items():
        (tmp_path / EVALUATIONS / f"{name}.json").write_text(content)
    assert columns(tmp_path) == {"evaluation.own.l0": 1.0}
    assert "cut.json" in caplog.text
    assert "other.json: no measurement" in caplog.text
    assert "bare.json: no measurement" in caplog.text


def test_an_evaluation_is_kept_printed_and_summarised(command_line, tmp_path, capfd, caplog):
    rng = np.random.default_rng(0)
    for name in ("X", "other"):
        np.save(tmp_path / f"{name}.npy", rng.random((60, 8), dtype=np.float32))
    brief = ["model.hidden=5", "trainer.max_epochs=1", "logger=csv", "picture=false"]
    typed = ["data=tensors", "data.path=X.npy", "hydra.sweep.dir=sweep", *brief]
    assert command_line("-m", *typed) == 0
    (run,) = (path.parent for path in tmp_path.glob("sweep/*/metrics.json"))
    evaluate(run)
    capfd.readouterr()
    assert main([str(run), "data.path=other.npy", "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    name = printed["name"]
    assert name.startswith("other-")
    assert printed == read(run)[name]
    assert printed["data"]["path"] == "other.npy"
    row = read_jobs(tmp_path / "sweep").iloc[0]
    assert row["evaluation.own.ridge_fvu"] == row["ridge_fvu"]
    assert row[f"evaluation.{name}.ridge_fvu"] == printed["metrics"]["ridge_fvu"]
    assert row[f"evaluation.{name}.ridge_fvu"] != row["ridge_fvu"]
    assert main([str(run), "data.path=missing.npy", "--json"]) == 2
    assert "missing.npy" in one_line(capfd)
    shutil.rmtree(run / EVALUATIONS)
    (run / EVALUATIONS).touch()  # no folder can be made there
    assert main([str(run)]) == 0
    assert "ridge fvu" in capfd.readouterr().out
    assert "cannot be written" in caplog.text


def test_codes_may_be_read_with_more_sweeps_than_they_were_trained_with(
    command_line, tmp_path, capfd
):
    x = np.random.default_rng(0).standard_normal((60, 8), dtype=np.float32)
    np.save(tmp_path / "X.npy", x)
    brief = ["trainer.max_epochs=1", "logger=csv", "picture=false", "data=tensors"]
    typed = ["data.path=X.npy", "data.normalize=scale", *brief]
    swept = ["model=tied_topk", "model.hidden=16", "model.l0=3"]
    assert command_line(*typed, *swept, "hydra.run.dir=run") == 0
    assert command_line(*typed, "hydra.run.dir=plain") == 0
    capfd.readouterr()
    assert main(["run", "model.read_sweeps=4", "model.refit=2", "--json"]) == 0
    kept = json.loads(capfd.readouterr().out)
    assert kept["name"] == f"{OWN}-read_sweeps_4-refit_2"
    assert kept["reading"] == {"read_sweeps": 4, "refit": 2}
    assert not is_own(kept["name"])
    assert kept["metrics"] != evaluate("run")
    model = implicit_em.load("run", read_sweeps=4, refit=2)
    data = RunSpec.of(RunDirectory("run").read_config()).build_data()
    data.setup()
    rows = data.normalizer.inverse(data.split(data.final)[0])
    with torch.no_grad():
        found = fvu(rows.numpy(), model.reconstruct(rows).numpy())
    assert kept["metrics"]["fvu"] == pytest.approx(found, rel=1e-4)
    refused = {
        ("run", "model.read_sweeps=0"): "read_sweeps=0: allowed are null and whole numbers from 1",
        ("run", "model.refit=1,2"): "model.refit=1,2: several values",
        ("run", "model.sweeps=3"): "model.sweeps=3: only settings of data can differ",
        ("plain", "model.refit=1"): "refit: changes nothing in how codes of Encoder are read",
    }
    for words, line in refused.items():
        assert main(list(words)) == 2
        assert line in one_line(capfd)
    with pytest.raises(ConfigError, match="refit: allowed for a run alone"):
        implicit_em.load("hub:a/b", refit=1)


@pytest.fixture
def run(composed, tmp_path):
    """The directory of a finished run, with what other commands have made of its weights."""
    run = RunDirectory(tmp_path / "run")
    spec = RunSpec.of(composed("logger=csv"))
    run.claim(spec)
    for path in (run.weights, run.model, run.features, run.history):
        path.touch()
    run.write_metrics({"status": "completed", "config_fingerprint": spec.fingerprint})
    for name in DERIVED:
        (run.path / name).mkdir()
        (run.path / name / "file").touch()
    return run


def test_the_list_of_what_is_derived_is_complete():
    assert set(DERIVED) == {EVALUATIONS, *EXPORTED.values(), PLACE}


@pytest.mark.parametrize(
    ("overrides", "resumed", "stays"),
    [
        ((), False, True),
        (("trainer.max_epochs=200",), True, False),
        (("seed=2", "overwrite=true"), False, False),
        (("seed=2",), False, True),
    ],
)
def test_what_is_derived_from_weights_goes_with_them(overrides, resumed, stays, run, composed):
    elsewhere = run.path.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    (run.path / "explore" / "link").symlink_to(elsewhere)
    with suppress(ConfigError):
        run.claim(RunSpec.of(composed("logger=csv", *overrides)), resumed)
    assert [(run.path / name).exists() for name in DERIVED] == [stays] * len(DERIVED)
    assert (elsewhere / "file").exists()


def test_a_folder_that_no_run_has_made_stays(composed, tmp_path):
    (tmp_path / "explore").mkdir()
    RunDirectory(tmp_path).claim(RunSpec.of(composed("logger=csv", "overwrite=true")))
    assert (tmp_path / "explore").exists()
