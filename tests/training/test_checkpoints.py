"""Where an interrupted run goes on."""

import logging
import tempfile
import zipfile

import pytest
import torch
from helpers.breaking import broken_off, every_block, steps_of
from helpers.pickles import Harmful

from implicit_em.base.errors import ConfigError
from implicit_em.training.checkpoints import OWN, LastCheckpoint, previous, resume_point
from implicit_em.training.run import train

WHOSE = "a run"


def checkpoint(epochs):
    """What is read of a checkpoint to see where a run goes on."""
    progress = {"current": {"processed": epochs}}
    own = {"run": WHOSE, "statistics": None}
    return {"loops": {"fit_loop": {"epoch_progress": progress}}, OWN: own}


@pytest.fixture
def last(tmp_path):
    """The path of a checkpoint after epoch 4, beside that after epoch 3."""
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint(4), path)
    torch.save(checkpoint(3), previous(path))
    return path


@pytest.mark.parametrize(
    ("missing", "epochs", "found"),
    [(0, 5, 4), (0, 4, 4), (0, 3, 3), (0, 2, 0), (1, 4, 3), (2, 4, 0)],
)
def test_a_run_goes_on_from_a_checkpoint_that_is_not_ahead_of_its_history(
    last, caplog, missing, epochs, found
):
    for path in (last, previous(last))[:missing]:
        path.unlink()
    path = {4: last, 3: previous(last), 0: None}[found]
    assert resume_point(last, WHOSE, epochs) == (path, found)
    assert not caplog.records


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
    "a pickle": lambda path: torch.save({**checkpoint(4), "x": Harmful(path.parent / "ran")}, path),
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


def test_a_checkpoint_needs_no_room_in_the_temporary_directory(
    composed, small, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert train(composed(*small, "callbacks=best"), tmp_path / "run")["status"] == "completed"
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()


def test_what_is_not_the_runs_own_is_left_alone(composed, small, tmp_path):
    mine = [
        tmp_path / name
        for name in (".pre-commit-config.yaml", ".0123456789ab-notes", ".my-notes/x")
    ]
    names = (".0123456789ab-metrics.json", "checkpoints/.0123456789ab-newest.ckpt")
    left = [tmp_path / name for name in names]
    for path in (*mine, *left):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    train(composed(*small), tmp_path)
    assert all(path.exists() for path in mine)
    assert not any(path.exists() for path in left), "half-written by a process that was killed"


@pytest.mark.parametrize("interval", [3, 100])
def test_no_more_than_an_interval_is_trained_again(
    composed, small, tmp_path, monkeypatch, interval
):
    every_block(monkeypatch, 2)
    cfg = composed(*small, f"checkpoint.steps={interval}")
    for block in (5, 8, 10):
        broken_off(monkeypatch, cfg, tmp_path / str(block), block)
        lost = steps_of(monkeypatch, cfg, tmp_path / str(block)) - (20 - 2 * (block - 1))
        assert 0 <= lost <= min(interval, 10)


@pytest.mark.parametrize(
    ("settings", "batches", "block", "left"),
    [
        (["checkpoint.minutes=1e-9"], 2, 9, 4),
        (["checkpoint.minutes=9"], 2, 9, 10),
        # A block is an epoch, and 15 steps are no two epochs.
        (["checkpoint.steps=15", "checkpoint.epochs=9", "trainer.max_epochs=4"], 10, 4, 10),
    ],
)
def test_checkpoints_come_by_minutes_and_by_steps_over_epochs(
    composed, small, tmp_path, monkeypatch, settings, batches, block, left
):
    every_block(monkeypatch, batches)
    cfg = composed(*small, *settings)
    broken_off(monkeypatch, cfg, tmp_path, block=block)
    assert steps_of(monkeypatch, cfg, tmp_path) == left


def test_checkpoints_come_every_so_many_epochs_and_at_the_end(
    composed, small, tmp_path, monkeypatch
):
    saved, save = [], LastCheckpoint._save

    def noting(self, trainer):
        saved.append(trainer.current_epoch + 1)
        save(self, trainer)

    monkeypatch.setattr(LastCheckpoint, "_save", noting)
    train(composed(*small, "checkpoint.epochs=2", "trainer.max_epochs=5"), tmp_path)
    assert saved == [2, 4, 5]


def test_the_time_before_a_break_counts(composed, small, tmp_path, monkeypatch):
    cfg = composed(*small, "trainer.max_epochs=3")
    broken_off(monkeypatch, cfg, tmp_path, block=3)
    last = tmp_path / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    state[OWN]["train_seconds"] = 1000.0
    torch.save(state, last)
    assert train(cfg, tmp_path)["train_seconds"] > 1000


def test_a_checkpoint_of_unknown_settings_is_not_gone_on_from(composed, small, tmp_path):
    cfg = composed(*small)
    train(cfg, tmp_path)
    (tmp_path / ".hydra" / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"last\.ckpt, but not the settings of a run"):
        train(cfg, tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json", "evaluations/mine.txt"])
def test_files_of_nobody_with_the_names_of_results_are_kept(composed, small, tmp_path, name):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(ConfigError, match="but not the settings of a run; choose another"):
        train(composed(*small), tmp_path)
    assert mine.read_text() == "mine"
