"""Where an interrupted run goes on."""

import logging

import pytest
import torch

from implicit_em.checkpoints import previous, resume_point


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
