"""Where an interrupted run goes on."""

import logging
import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.breaking import broken_off, every_block, fails_once, steps_of
from helpers.models import MODEL_OF_OPTIMIZER
from helpers.paths import ROOT
from helpers.results import results

from implicit_em.base.errors import ConfigError
from implicit_em.engine.stack import Stack
from implicit_em.training import run as training
from implicit_em.training.checkpoints import OWN, LastCheckpoint, previous, resume_point
from implicit_em.training.history import HistoryLogger
from implicit_em.training.run import train

WHOSE = "a run"


def checkpoint(epochs):
    """What is read of a checkpoint to see where a run goes on."""
    progress = {"current": {"processed": epochs}}
    own = {"run": WHOSE, **dict.fromkeys(("random_state", "train_seconds", "stopped"))}
    return {"loops": {"fit_loop": {"epoch_progress": progress}}, OWN: own}


@pytest.fixture
def last(tmp_path):
    """The path of a checkpoint after epoch 4, beside that after epoch 3."""
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint(4), path)
    torch.save(checkpoint(3), previous(path))
    return path


def test_a_run_goes_on_after_the_last_epoch(last):
    assert resume_point(last, WHOSE, epochs=4) == (last, 4)
    assert resume_point(last, WHOSE, epochs=5) == (last, 4)


def test_a_checkpoint_ahead_of_the_history_is_not_used(last):
    assert resume_point(last, WHOSE, epochs=3) == (previous(last), 3)
    assert resume_point(last, WHOSE, epochs=2) == (None, 0)


class Malicious:
    """What runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    """Flip a bit in the middle of what is stored, where no structure of the file is."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda info: info.file_size)
    place = content.index(b"processed", entry.header_offset)
    content[place] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"no checkpoint"),
    "truncated": truncate,
    "a flipped bit": flip_a_bit,
    "of something else": lambda path: torch.save({"global_step": 3}, path),
    "of another version": lambda path: torch.save({**checkpoint(4), OWN: {}}, path),
    "a pickle": lambda path: torch.save(
        {**checkpoint(4), "x": Malicious(path.parent / "ran")}, path
    ),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_cannot_be_read_is_named_and_not_used(last, caplog, damage):
    DAMAGES[damage](last)
    caplog.set_level(logging.WARNING, "implicit_em")
    assert resume_point(last, WHOSE, epochs=4) == (previous(last), 3)
    (record,) = (record for record in caplog.records if record.name.startswith("implicit_em"))
    assert f"{last} cannot be read" in record.getMessage()
    assert not (last.parent / "ran").exists()


def test_a_checkpoint_of_another_run_is_named_and_not_used(last, caplog):
    assert resume_point(last, "another run", epochs=4) == (None, 0)
    own = [record for record in caplog.records if record.name.startswith("implicit_em")]
    assert [record.getMessage() for record in own] == [
        f"{path} belongs to another run: not used" for path in (last, previous(last))
    ]


def test_a_run_does_not_go_on_from_the_checkpoint_of_another_seed(composed, small, tmp_path):
    train(composed(*small), tmp_path / "one")
    for seed, name in ((2, "other"), (2, "undisturbed")):
        train(composed(*small, f"seed={seed}"), tmp_path / name)
    for path in (tmp_path / "other" / "checkpoints").iterdir():
        path.unlink()
    shutil.copy(tmp_path / "one/checkpoints/last.ckpt", tmp_path / "other/checkpoints/last.ckpt")
    (tmp_path / "other/metrics.json").unlink()
    train(composed(*small, "seed=2"), tmp_path / "other")
    assert results(tmp_path / "other") == results(tmp_path / "undisturbed")


def test_a_checkpoint_needs_no_room_in_the_temporary_directory(
    composed, small, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert train(composed(*small, "callbacks=best"), tmp_path / "run")["status"] == "completed"
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()


def test_what_is_not_the_runs_own_is_left_alone(composed, small, tmp_path):
    mine = [tmp_path / name for name in (".pre-commit-config.yaml", ".7-notes", ".my-notes/x")]
    left = [tmp_path / ".7-metrics.json", tmp_path / "checkpoints/.7-newest.ckpt"]
    for path in (*mine, *left):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    train(composed(*small), tmp_path)
    assert all(path.exists() for path in mine)
    assert not any(path.exists() for path in left), "half-written by a process that was killed"


def test_without_a_checkpoint_a_run_begins_at_the_beginning(tmp_path, caplog):
    assert resume_point(tmp_path / "last.ckpt", WHOSE, epochs=4) == (None, 0)
    assert not caplog.records


def test_the_one_before_is_used_where_the_last_is_missing(last):
    last.unlink()
    assert resume_point(last, WHOSE, epochs=4) == (previous(last), 3)


OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))
SCHEDULES = sorted(path.stem for path in (ROOT / "conf" / "lr").glob("*.yaml"))


def slow_unless(condition, *values):
    return pytest.param(*values, marks=[] if condition else pytest.mark.slow)


def in_turn(optimizer, lr):
    """Whether a pair is among the few in which each optimizer and each schedule is."""
    first, second = OPTIMIZERS.index(optimizer), SCHEDULES.index(lr)
    return first % len(SCHEDULES) == second % len(OPTIMIZERS)


@pytest.mark.parametrize(
    ("optimizer", "lr"),
    [slow_unless(in_turn(o, lr), o, lr) for o in OPTIMIZERS for lr in SCHEDULES],
)
def test_a_run_that_broke_off_within_an_epoch_goes_on_to_the_same_bits(
    composed, small, tmp_path, monkeypatch, optimizer, lr
):
    every_block(monkeypatch, 2)  # of an epoch's ten batches
    settings = [f"optimizer={optimizer}", f"lr={lr}", "checkpoint.steps=4", "metrics_every=1"]
    model = MODEL_OF_OPTIMIZER.get(optimizer, "encoder")
    cfg = composed(*small, f"model={model}", *settings)
    train(cfg, tmp_path / "undisturbed")
    broken_off(monkeypatch, cfg, tmp_path / "again", block=9)  # 6 steps into epoch 2
    assert steps_of(monkeypatch, cfg, tmp_path / "again") == 6
    assert results(tmp_path / "again") == results(tmp_path / "undisturbed")


TORCH = "_target_: torch.optim.lr_scheduler."
EACH_STEP = {
    "StepLR": "step_size: 3",
    "MultiStepLR": "milestones: [3, 12]",
    "ConstantLR": "factor: 0.5",
    "LinearLR": "total_iters: 9",
    "ExponentialLR": "gamma: 0.9",
    "PolynomialLR": "total_iters: 15",
    "CosineAnnealingLR": "T_max: 30",
    "CosineAnnealingWarmRestarts": "T_0: 6",
    "CyclicLR": "base_lr: 1e-4, max_lr: 1e-2, step_size_up: 4, cycle_momentum: true",
    "OneCycleLR": "max_lr: 1e-2, total_steps: 30",
    "ChainedScheduler": f"schedulers: [{{{TORCH}LinearLR}}, {{{TORCH}ExponentialLR, gamma: 0.9}}]",
    "SequentialLR": f"schedulers: [{{{TORCH}LinearLR}}, {{{TORCH}ExponentialLR, gamma: 0.9}}], "
    "milestones: [12]",
}
EACH_EPOCH = {
    "ReduceLROnPlateau": "patience: 0, threshold: 1e9, threshold_mode: abs",
    "StepLR": "step_size: 1",
}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *(
            slow_unless(k == "SequentialLR", k, f"{v}, interval: step")
            for k, v in EACH_STEP.items()
        ),
        *(slow_unless(k == "ReduceLROnPlateau", k, v) for k, v in EACH_EPOCH.items()),
    ],
)
def test_schedulers_of_torch_go_on_to_the_same_bits(
    composed, small, tmp_path, monkeypatch, name, arguments
):
    every_block(monkeypatch, 2)
    schedule = f"lr.schedule={{{TORCH}{name}, {arguments}}}"
    momentum = "optimizer=momentum"
    cfg = composed(*small, schedule, momentum, "checkpoint.steps=4", "trainer.max_epochs=3")
    train(cfg, tmp_path / "undisturbed")
    broken_off(monkeypatch, cfg, tmp_path / "again", block=9)
    train(cfg, tmp_path / "again")
    assert results(tmp_path / "again") == results(tmp_path / "undisturbed")


@pytest.fixture(scope="module")
def undisturbed():
    """Results of runs that nothing broke off, by their settings."""
    return {}


@pytest.mark.parametrize(
    ("settings", "block"),
    [
        slow_unless(block == 5 or (block in (2, 6, 10) and not settings), settings, block)
        for settings in ([], ["model=sae"], ["activation={_target_: torch.nn.RReLU}"])
        for block in range(2, 11)
    ],
)
def test_a_run_may_break_off_anywhere(
    composed, small, tmp_path, monkeypatch, undisturbed, settings, block
):
    every_block(monkeypatch, 2)
    cfg = composed(*small, *settings, "checkpoint.steps=2")
    if tuple(settings) not in undisturbed:
        train(cfg, tmp_path / "undisturbed")
        undisturbed[tuple(settings)] = results(tmp_path / "undisturbed")
    broken_off(monkeypatch, cfg, tmp_path / "again", block)
    assert steps_of(monkeypatch, cfg, tmp_path / "again") == 20 - 2 * (block - 1)
    assert results(tmp_path / "again") == undisturbed[tuple(settings)]


@pytest.mark.parametrize(
    "interval", [slow_unless(n in (3, 100), n) for n in (2, 3, 4, 5, 7, 8, 100)]
)
def test_no_more_than_an_interval_is_trained_again(
    composed, small, tmp_path, monkeypatch, interval
):
    every_block(monkeypatch, 2)
    cfg = composed(*small, f"checkpoint.steps={interval}")
    for block in (5, 8, 10):
        broken_off(monkeypatch, cfg, tmp_path / str(block), block)
        lost = steps_of(monkeypatch, cfg, tmp_path / str(block)) - (20 - 2 * (block - 1))
        assert 0 <= lost <= min(interval, 10)


def test_checkpoints_come_by_minutes_too(composed, small, tmp_path, monkeypatch):
    every_block(monkeypatch, 2)
    cfg = composed(*small, "checkpoint.minutes=1e-9")
    broken_off(monkeypatch, cfg, tmp_path, block=9)
    assert steps_of(monkeypatch, cfg, tmp_path) == 4
    rare = composed(*small, "checkpoint.minutes=9")
    broken_off(monkeypatch, rare, tmp_path / "rare", block=9)
    assert steps_of(monkeypatch, rare, tmp_path / "rare") == 10


def test_checkpoints_come_every_so_many_epochs_and_at_the_end(
    composed, small, tmp_path, monkeypatch
):
    every_block(monkeypatch, 2)  # of an epoch's ten batches
    cfg = composed(*small, "checkpoint.epochs=2", "trainer.max_epochs=5")
    saved, save = [], LastCheckpoint._save

    def noting(self, trainer):
        saved.append(trainer.current_epoch + 1)
        save(self, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "_save", noting)
        train(cfg, tmp_path / "undisturbed")
    assert saved == [2, 4, 5]
    broken_off(monkeypatch, cfg, tmp_path / "again", block=19)  # 6 steps into epoch 4
    assert steps_of(monkeypatch, cfg, tmp_path / "again") == 30
    assert results(tmp_path / "again") == results(tmp_path / "undisturbed")


def test_a_damaged_checkpoint_costs_an_interval_and_no_bit(composed, small, tmp_path, monkeypatch):
    every_block(monkeypatch, 2)
    cfg = composed(*small, "checkpoint.steps=2")
    train(cfg, tmp_path / "undisturbed")
    broken_off(monkeypatch, cfg, tmp_path / "again", block=9)
    truncate(tmp_path / "again" / "checkpoints" / "last.ckpt")
    assert steps_of(monkeypatch, cfg, tmp_path / "again") == 6
    assert results(tmp_path / "again") == results(tmp_path / "undisturbed")


def test_the_time_before_a_break_counts(composed, small, tmp_path, monkeypatch):
    cfg = composed(*small, "trainer.max_epochs=3")
    broken_off(monkeypatch, cfg, tmp_path, block=3)
    last = tmp_path / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    state[OWN]["train_seconds"] = 1000.0
    torch.save(state, last)
    assert train(cfg, tmp_path)["train_seconds"] > 1000


RANDOM = ["activation={_target_: torch.nn.RReLU}"]
STOPPING = ["callbacks=early_stopping", "callbacks.early_stopping.patience=2"]
STOPPING += ["callbacks.early_stopping.min_delta=1e9", "metrics_every=1"]


@pytest.mark.parametrize(
    "settings", [[], RANDOM, slow_unless(False, ["lr=cosine", "optimizer=momentum"]), STOPPING]
)
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
