"""Where an interrupted run goes on."""

import json
import logging

import pytest
import torch

from implicit_em import training
from implicit_em.checkpoints import previous, resume_point
from implicit_em.errors import ConfigError
from implicit_em.history import HistoryLogger
from implicit_em.stack import Stack
from implicit_em.training import train


@pytest.fixture
def last(tmp_path):
    """The path of a checkpoint of epoch 4, beside that of epoch 3."""
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 3}, path)
    torch.save({"epoch": 2}, previous(path))
    return path


def test_a_run_goes_on_after_the_last_epoch(last):
    assert resume_point(last, epochs=4) == (last, 4)
    assert resume_point(last, epochs=5) == (last, 4)


def test_a_checkpoint_ahead_of_the_history_is_not_used(last):
    assert resume_point(last, epochs=3) == (previous(last), 3)
    assert resume_point(last, epochs=2) == (None, 0)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None, {"global_step": 3}])
def test_a_checkpoint_that_cannot_be_read_is_named_and_not_used(last, caplog, content):
    if content is None:
        last.write_bytes(last.read_bytes()[:-100])
    elif isinstance(content, bytes):
        last.write_bytes(content)
    else:
        torch.save(content, last)
    caplog.set_level(logging.WARNING, "implicit_em")
    assert resume_point(last, epochs=4) == (previous(last), 3)
    (record,) = caplog.records
    assert f"{last} cannot be read" in record.getMessage()


def test_without_a_checkpoint_a_run_begins_at_the_beginning(tmp_path, caplog):
    assert resume_point(tmp_path / "last.ckpt", epochs=4) == (None, 0)
    assert not caplog.records


def test_the_one_before_is_used_where_the_last_is_missing(last):
    last.unlink()
    assert resume_point(last, epochs=4) == (previous(last), 3)


def results(run):
    """All that a run leaves, but for times."""
    metrics = json.loads((run / "metrics.json").read_text())
    files = [(run / name).read_bytes() for name in ("history.csv", "model.safetensors")]
    return {k: v for k, v in metrics.items() if not k.endswith("_seconds")}, files


def fails_once(function, when):
    """The function, but for an error the first time that a condition holds."""
    failed = []

    def wrapped(*arguments, **options):
        if not failed and when(*arguments):
            failed.append(True)
            raise RuntimeError("killed")
        return function(*arguments, **options)

    return wrapped


RANDOM = ["activation={_target_: torch.nn.RReLU}"]
STOPPING = ["callbacks=early_stopping", "callbacks.early_stopping.patience=2"]
STOPPING += ["callbacks.early_stopping.min_delta=1e9", "metrics_every=1"]


@pytest.mark.parametrize("settings", [[], RANDOM, ["lr=cosine", "optimizer=momentum"], STOPPING])
def test_a_run_that_broke_off_between_two_files_goes_on_to_the_same_bits(
    composed, small, tmp_path, monkeypatch, settings
):
    cfg = composed(*small, "trainer.max_epochs=6", *settings)
    train(cfg, tmp_path / "undisturbed")
    save = fails_once(HistoryLogger.save, lambda history: len(history.column("train/loss")) == 3)
    monkeypatch.setattr(HistoryLogger, "save", save)
    with pytest.raises(RuntimeError, match="killed"):
        train(cfg, tmp_path / "again")
    train(cfg, tmp_path / "again")
    assert results(tmp_path / "again") == results(tmp_path / "undisturbed")


@pytest.mark.parametrize("settings", [[], STOPPING])
def test_a_run_that_broke_off_after_training_only_measures(
    composed, small, tmp_path, monkeypatch, settings
):
    cfg = composed(*small, "trainer.max_epochs=6", *settings)
    train(cfg, tmp_path / "undisturbed")
    measure = fails_once(training.evaluate_module, lambda *_: True)
    monkeypatch.setattr(training, "evaluate_module", measure)
    with pytest.raises(RuntimeError, match="killed"):
        train(cfg, tmp_path / "again")
    monkeypatch.setattr(Stack, "train", lambda *_: pytest.fail("trained again"))
    train(cfg, tmp_path / "again")
    assert results(tmp_path / "again") == results(tmp_path / "undisturbed")


def test_a_checkpoint_of_unknown_settings_is_not_gone_on_from(composed, small, tmp_path):
    cfg = composed(*small)
    train(cfg, tmp_path)
    (tmp_path / ".hydra" / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="whose settings are missing"):
        train(cfg, tmp_path)
