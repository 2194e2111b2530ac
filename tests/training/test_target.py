"""``model.l0``: what it makes of a run's settings, files and results."""

import json
import logging

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import implicit_em
from implicit_em.base.errors import ConfigError
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.training.check import check
from implicit_em.training.measurement import l0_reached
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec


@pytest.fixture
def settings(small):
    return [*small, "model.hidden=32", "trainer.max_epochs=4", "probe=none", "model.l0=3"]


@pytest.mark.parametrize("model", ["topk", "tied_topk", "batch_topk", "jump_relu"])
def test_where_a_model_has_a_k_it_is_the_target_and_marked_if_missed(
    model, composed, small, tmp_path, caplog
):
    settings = [*small, f"model={model}", "model.hidden=32", "probe=none"]
    cfg = composed(*settings, "model.l0=3")
    assert config_fingerprint(cfg) != config_fingerprint(composed(*settings, "model.l0=2"))
    with caplog.at_level(logging.WARNING):
        metrics = train(cfg, tmp_path)
    assert implicit_em.load(tmp_path).k == metrics["l0_target"] == 3
    assert metrics["l0_reached"] == (model in ("topk", "tied_topk"))
    lines = [r.getMessage() for r in caplog.records if "model.l0" in r.getMessage()]
    missed = f"model.l0=3: not reached: L0 is {metrics['l0']:.3g}"
    assert lines == ([] if metrics["l0_reached"] else [missed])


def test_a_target_is_compared_with_the_real_number_of_units(composed):
    wide = "model.hidden=40000"
    check(RunSpec.of(composed(wide, "model.l0=20000")))
    with pytest.raises(ConfigError, match=r"^model\.l0=40001: must be at most model\.hidden=40000"):
        check(RunSpec.of(composed(wide, "model.l0=40001")))


@pytest.mark.parametrize("model", ["encoder", "gated"])
def test_the_history_shows_l0_and_the_weights(model, composed, settings, tmp_path):
    metrics = train(composed(*settings, f"model={model}", "logger=csv"), tmp_path)
    name = {"encoder": "lse", "gated": "l1"}[model]
    history = pd.read_csv(tmp_path / "history.csv")
    shown = [column for column in history if column.startswith("control/")]
    assert shown == ["control/l0", f"control/{name}_weight"]
    assert history[shown].notna().all(axis=None)
    assert history["control/l0"].between(0, 32).all()
    assert history[shown[1]].iloc[0] < history[shown[1]].iloc[-1]
    assert metrics["l0_target"] == 3


def test_a_run_without_a_target_has_none_of_it(composed, small, tmp_path):
    metrics = train(composed(*small, "probe=none"), tmp_path)
    assert (metrics["l0_target"], metrics["l0_reached"]) == (None, None)
    assert not [c for c in pd.read_csv(tmp_path / "history.csv") if c.startswith("control")]
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(name.startswith("model.") for name in state)


def test_the_checkpoint_holds_the_control_and_the_model_does_not(composed, settings, tmp_path):
    train(composed(*settings, "data.val_size=50"), tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    own = {name for name in state if not name.startswith("model.")}
    assert own == {f"control.{name}" for name in ("running", "integral", "averaged", "ratio")}
    assert all(state[name].shape == () and state[name] != 0 for name in own)
    assert state["control.ratio"] != 1, "held-out samples reach the target too"
    assert pd.read_csv(tmp_path / "history.csv")["control/held_out_l0"].notna().all()
    assert set(load_file(tmp_path / "model.safetensors")) == {"linear.weight", "linear.bias"}
    assert "l0" not in json.loads((tmp_path / "model.json").read_text())["model"]
    implicit_em.load(tmp_path)


@pytest.mark.parametrize(
    ("model", "column", "steered"),
    [
        ("encoder", "lse_weight", "loss.lse.weight"),
        ("spike_slab", "temperature", "model.temperature"),
    ],
)
def test_a_target_that_is_missed_is_marked_with_what_it_steered(
    model, column, steered, composed, settings, tmp_path, caplog
):
    missed = composed(*settings, f"model={model}", "trainer.max_epochs=1", "lr.value=1e-9")
    with caplog.at_level(logging.WARNING):
        metrics = train(missed, tmp_path)
    assert metrics["l0_reached"] is False
    value = pd.read_csv(tmp_path / "history.csv")[f"control/{column}"].iloc[-1]
    (line,) = [r.getMessage() for r in caplog.records if "model.l0" in r.getMessage()]
    assert line == (
        f"model.l0=3: not reached: L0 is {metrics['l0']:.3g}; means over the last epoch: "
        f"{steered}={value:.3g}"
    )


@pytest.mark.parametrize(("l0", "reached"), [(7.59, 0), (7.61, 1), (8, 1), (8.39, 1), (8.41, 0)])
def test_a_target_is_reached_within_five_percent(l0, reached, caplog):
    assert l0_reached(8, l0, {"l1": 0.3}) == bool(reached)
    own = [record for record in caplog.records if record.name.startswith("implicit_em")]
    assert len(own) == 1 - reached


def test_an_activation_that_is_always_above_0_is_marked(composed, settings, tmp_path):
    metrics = train(composed(*settings, "activation=softplus"), tmp_path)
    assert (metrics["l0"], metrics["l0_reached"]) == (32, False)
