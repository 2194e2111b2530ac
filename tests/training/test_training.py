"""One run from its configuration to a finished run directory."""

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from helpers.lines import one_line
from helpers.paths import ROOT
from helpers.results import metrics_of
from omegaconf import OmegaConf
from safetensors.torch import load_file

import implicit_em
from implicit_em.base.errors import ConfigError, NonFiniteLossError
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.data import ResidentDataModule
from implicit_em.trained.evaluate import evaluate
from implicit_em.trained.evaluate import main as evaluate_main
from implicit_em.training import measurement
from implicit_em.training.directory import RunDirectory
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec

CONTRACT = """
.hydra/config.yaml checkpoints/last.ckpt features.png history.csv metrics.json model.json
model.safetensors
"""
KEYS = """
status error seed config_fingerprint parameters epochs final_loss convergence_epoch dead_units
redundancy responsibility_entropy density probe_accuracy reconstruction_mse train_seconds device
versions
"""


def test_a_run_directory_holds_the_contract(composed, small, tmp_path):
    metrics = train(composed(*small, "picture=true", "metrics_every=2"), tmp_path / "run")
    for name in CONTRACT.split():
        assert (tmp_path / "run" / name).stat().st_size > 0, name
    assert set(metrics) >= set(KEYS.split())
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["status"] == "completed"
    assert metrics["parameters"] == 5 * 64 + 5
    assert metrics["epochs"] == 2
    assert metrics["reconstruction_mse"] is None
    assert metrics["probe_accuracy"] > 0.5
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    total = history[["train/lse", "train/var", "train/tc"]].sum(axis=1)
    np.testing.assert_allclose(history["train/loss"], total, rtol=1e-6)
    assert metrics["final_loss"] == history["train/loss"].iloc[-1]
    assert np.isnan(history["monitor/density"][0]), "not measured in this epoch"
    assert 0 <= history["monitor/density"][1] <= 1


def test_a_run_need_not_draw_its_features(composed, small, tmp_path):
    drawn, not_drawn = (composed(*small, f"picture={word}") for word in ("true", "false"))
    assert config_fingerprint(drawn) == config_fingerprint(not_drawn)
    train(drawn, tmp_path / "with")
    train(not_drawn, tmp_path / "without")
    assert not (tmp_path / "without" / "features.png").exists()
    complete = [RunDirectory(tmp_path / name).completed_metrics() for name in ("with", "without")]
    assert all(complete), "also without a picture that it does not draw"
    (tmp_path / "with" / "model.json").unlink()
    assert RunDirectory(tmp_path / "with").completed_metrics() is None


class Blank(ResidentDataModule):
    """Images of MNIST's number and size."""

    def read(self, train):
        count = 60_000 if train else 10_000
        return torch.zeros(1, 28, 28, dtype=torch.uint8).expand(count, -1, -1), torch.zeros(
            count
        ).long()


@pytest.mark.parametrize(
    ("components", "interval"), [(16, 2), (64, 2), (128, 2), (256, 3), (1024, 6), (4096, 19)]
)
def test_the_wider_the_layer_the_rarer_are_its_curves_measured(components, interval):
    data = Blank()
    data.setup()
    assert measurement.monitoring_interval(data, components) == interval


def test_tensorboard_has_settings_curves_final_metrics_and_the_features(composed, small, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(composed(*small), tmp_path / "csv")
    metrics = train(composed(*small, "picture=true", "logger=tensorboard"), tmp_path / "run")
    assert metrics_of(tmp_path / "csv") == metrics_of(tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert events.Scalars("train/loss")[-1].value == pytest.approx(metrics["final_loss"])
    assert [point.step for point in events.Scalars("step/loss")] == [*range(1, 21)]
    assert events.Scalars("redundancy")[0].value == pytest.approx(metrics["redundancy"])
    assert "hp_metric" not in events.Tags()["scalars"]
    assert events.Images("features")[0].width > 0
    start = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert b"model/hidden" in start
    assert b"lr/value" in start


def test_the_same_seed_is_bit_identical_and_another_is_not(composed, small, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(7)  # whatever else uses random numbers
        train(composed(*small, f"seed={seed}"), tmp_path / name)
    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in "abc"}
    for key, weight in weights["a"].items():
        assert torch.equal(weight, weights["b"][key])
        assert not torch.equal(weight, weights["c"][key])
    assert (tmp_path / "a/history.csv").read_text() == (tmp_path / "b/history.csv").read_text()
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true"])
def test_every_precision_trains_and_is_probed(composed, small, tmp_path, precision):
    metrics = train(composed(*small, f"trainer.precision={precision}"), tmp_path)
    assert metrics["probe_accuracy"] > 0.5


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "activation").glob("*.yaml")))
def test_every_activation_trains_and_comes_back(composed, small, tmp_path, path):
    overrides = [f"activation={path.stem}", "trainer.max_epochs=1", "probe=none"]
    train(composed(*small, *overrides), tmp_path)
    model = implicit_em.load(tmp_path)
    assert type(model.activation).__name__.lower() == path.stem.replace("_", "")


@pytest.mark.parametrize("loss", ["lse", "lse_var", "lse_var_tc", "var_tc"])
def test_every_loss_trains(composed, small, tmp_path, loss):
    metrics = train(composed(*small, f"loss={loss}", "probe=none"), tmp_path)
    assert metrics["probe_accuracy"] is None
    columns = pd.read_csv(tmp_path / "history.csv").columns
    trained = [key.removeprefix("train/") for key in columns if key.startswith("train/")]
    assert trained == ["loss", *loss.split("_")]
    assert np.isfinite(metrics["final_loss"])


def test_the_sae_brings_its_own_loss(composed, small, tmp_path):
    metrics = train(composed(*small, "model=sae"), tmp_path)
    assert metrics["parameters"] == 5 * 64 + 5 + 64 * 5 + 64
    assert metrics["reconstruction_mse"] > 0
    assert metrics["transpose_reconstruction_mse"] is None
    assert isinstance(implicit_em.load(tmp_path), implicit_em.SparseAutoencoder)


def test_a_dead_model_has_no_redundancy(composed, small, tmp_path, capfd):
    dead = ["loss=lse", "optimizer=sgd", "lr.value=10", "metrics_every=1"]
    metrics = train(composed(*small, *dead), tmp_path)
    assert metrics["dead_units"] == metrics["silent_units"] == 5
    assert metrics["redundancy"] is None
    assert "not finite" not in capfd.readouterr().out
    assert metrics["responsibility_entropy"] == pytest.approx(np.log(5))
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["monitor/dead_units"].iloc[-1] == 5
    assert np.isnan(history["monitor/redundancy"].iloc[-1])


@pytest.mark.parametrize("fused", [True, False])
def test_a_diverging_run_fails_loudly_and_keeps_its_last_good_checkpoint(
    composed, small, tmp_path, fused
):
    schedule = "lr.schedule={_target_: test_training.explode}"
    cfg = composed(*small, f"optimizer.fused={fused}", schedule)
    with pytest.raises(NonFiniteLossError, match=r"step 13 \(epoch 2\); terms: var"):
        train(cfg, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["status"] == "failed"
    assert "not finite at step" in metrics["error"]
    assert metrics["final_loss"] is None
    assert metrics["epochs"] == 1
    assert not (tmp_path / "model.safetensors").exists()
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 0
    assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())


def explode(progress):
    """A schedule: the usual rate for an epoch, then one that no training survives."""
    return 1.0 if progress <= 0.5 else 1e30


def test_a_finished_run_is_reused_and_never_overwritten(composed, small, tmp_path):
    first = train(composed(*small), tmp_path)
    written = (tmp_path / "metrics.json").stat().st_mtime_ns
    assert train(composed(*small, "logger=tensorboard"), tmp_path) == first
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match=r"seed=1 there, 2 here"):
        train(composed(*small, "seed=2"), tmp_path)
    assert OmegaConf.load(tmp_path / ".hydra/config.yaml").seed == 1
    assert json.loads((tmp_path / "metrics.json").read_text()) == first


def test_one_process_at_a_time_trains_in_a_directory(composed, small, tmp_path, caplog):
    caplog.set_level(logging.INFO, "implicit_em")
    cfg = composed(*small)
    with ThreadPoolExecutor(1) as pool, FileLock(tmp_path / ".lock"):
        waiting = pool.submit(train, cfg, tmp_path)
        while "another process is at work there" not in caplog.text:
            assert not waiting.done()
            time.sleep(0.01)
        assert not (tmp_path / ".hydra").exists()
        train(cfg, tmp_path / "elsewhere")
    assert waiting.result()["status"] == "completed"


def test_a_failed_run_is_tried_again(composed, small, tmp_path):
    cfg = composed(*small)
    fine = cfg.data.root
    cfg.data.root = str(tmp_path / "nothing")
    (tmp_path / "nothing").touch()
    with pytest.raises(ConfigError, match="data: "):
        train(cfg, tmp_path / "run")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["status"] == "failed"
    cfg.data.root = fine
    assert train(cfg, tmp_path / "run")["status"] == "completed"


def test_a_refusal_names_what_differs(composed, tmp_path):
    run = RunDirectory(tmp_path)
    run.config.parent.mkdir()
    OmegaConf.save(composed(), run.config, resolve=True)
    other = composed("lr.value=1", "loss.tc.weight=2", "model.hidden=3", "seed=4", "probe=none")
    refusal = run.refusal(RunSpec.of(other))
    shown = "loss.tc.weight=1.0 there, 2 here; lr.value=0.001 there, 1 here; model.hidden=64 there"
    assert shown in refusal
    assert "; 3 more)" in refusal


def test_evaluating_again_gives_the_same_metrics_or_says_what_is_wrong(
    composed, small, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    run = tmp_path / "run"
    metrics = train(composed(*small), run)
    again = evaluate(run)
    for key in ("dead_units", "redundancy", "density", "probe_accuracy", "responsibility_entropy"):
        assert again[key] == metrics[key]
    root = composed(*small).data.root
    conf = ["--conf", str(ROOT / "conf")]
    for data in (["data=mnist", f"data.root={root}"], ["data.val_size=100"]):
        assert evaluate_main([str(run), *conf, *data]) == 0
        assert "probe accuracy" in capsys.readouterr().out
    wrong = {
        (str(tmp_path),): "no run directory",
        (str(run), "seed=3"): "seed=3",
        (str(run), "dataset=kmnist"): "dataset=kmnist: only settings of data",
        (str(run), "data=mnist"): "width 784, but the model was trained on width 64",
    }
    for arguments, reason in wrong.items():
        assert evaluate_main(arguments) == 2
        assert reason in one_line(capsys)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "callbacks").glob("*.yaml")))
def test_every_callback_trains(composed, small, tmp_path, path):
    overrides = [f"callbacks={path.stem}", "metrics_every=1", "probe=none"]
    assert train(composed(*small, *overrides), tmp_path)["status"] == "completed"
    assert (tmp_path / "checkpoints/best.ckpt").exists() == (path.stem == "best")


def test_a_run_can_be_measured_without_the_test_set(composed, small, tmp_path, monkeypatch):
    small = [*small, "data.val_size=100"]
    held_out = [*small, "data.final=validation", "metrics_every=2"]
    tested = train(composed(*small), tmp_path / "test")
    split = ResidentDataModule.split
    monkeypatch.setattr(
        ResidentDataModule, "split", lambda self, name: split(self, {"train": name}[name])
    )
    metrics = train(composed(*held_out), tmp_path / "validation")
    assert metrics["density"] != tested["density"]
    assert metrics["probe_accuracy"] * 100 == pytest.approx(round(metrics["probe_accuracy"] * 100))
    curve = pd.read_csv(tmp_path / "validation" / "history.csv")["monitor/density"]
    assert metrics["density"] == pytest.approx(curve.iloc[-1])
    files = [tmp_path / name / "model.safetensors" for name in ("test", "validation")]
    assert torch.equal(*(load_file(file)["linear.weight"] for file in files))


AFFECTING = """
seed=2 model.hidden=65 model.l0=8 trainer.sparse=off loss.lse.weight=2
loss.lse.reduction=mean activation=abs probe=none
optimizer=sgd lr.value=2e-3 lr=cosine data.batch_size=64 data=kmnist data.val_size=1
trainer.max_epochs=99 trainer.precision=64-true trainer.threads=2 callbacks=early_stopping
"""


def test_the_fingerprint_covers_what_affects_the_results(composed, small):
    base = config_fingerprint(composed())
    nothing = ["data.root=/x", "logger=csv", "trainer.enable_progress_bar=false"]
    for override in nothing:
        assert config_fingerprint(composed(override)) == base
    assert config_fingerprint(composed("lr.value=0.001", "loss.orthogonality.weight=0")) == base
    assert config_fingerprint(composed("loss=lse")) == config_fingerprint(
        composed("loss.var.weight=0", "loss.tc.weight=0")
    )
    fingerprints = {config_fingerprint(composed(override)) for override in AFFECTING.split()}
    assert len(fingerprints | {base}) == len(AFFECTING.split()) + 1
