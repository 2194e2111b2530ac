import json
import os
import socket

import pytest
import torch
from helpers.waiting import soon
from safetensors.torch import load, save

from implicit_em.base import files
from implicit_em.base.errors import DamagedError
from implicit_em.base.files import read_bytes, read_json, read_safetensors, whole, write_json


def fail_halfway(path, error):
    with whole(path) as temporary:
        temporary.write_text("half of the n")
        raise error


def test_the_file_appears_when_all_went_well(tmp_path):
    path = tmp_path / "deep" / "result.txt"
    with whole(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(error):
        fail_halfway(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_before_anything_is_written_stays_the_error_it_was(tmp_path):
    with pytest.raises(ZeroDivisionError), whole(tmp_path / "result.txt"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_json_comes_back_as_it_was(tmp_path):
    content = {"loss": -532.05, "epoch": None, "name": "lse", "units": [1, 2]}
    write_json(tmp_path / "metrics.json", content)
    assert json.loads((tmp_path / "metrics.json").read_text()) == content


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_no_number(tmp_path, value):
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"nested": [{"loss": value}]})
    assert json.loads(path.read_text()) == {"loss": 1.0}
    assert list(tmp_path.iterdir()) == [path]


def test_json_refuses_what_it_cannot_write_without_a_trace(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "metrics.json", {"loss": object()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("read", [read_bytes, read_json, read_safetensors])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket"])
def test_what_is_no_file_is_not_read(tmp_path, kind, read):
    path = tmp_path / "model.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    with soon(), pytest.raises(DamagedError, match=r"model\.json cannot be read: "):
        read(path)


def test_a_file_that_fails_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.symlink_to("/proc/self/mem")  # a regular file that has no byte at its start
    with pytest.raises(DamagedError, match=r"model\.safetensors cannot be read: .*Input/output"):
        read_safetensors(path)


@pytest.mark.parametrize(
    "content",
    [
        *(b"[" * 10**4, b"NaN", b'{"a": 1e999}', b"9" * 5_000, b"\xff", b'"\\ud800"', b""),
        b"1" + b" " * 10**4,
    ],
)
def test_what_is_no_json_is_refused_with_its_name(tmp_path, monkeypatch, content):
    monkeypatch.setattr(files, "LARGEST_JSON", 10**4)
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"model\.json"):
        read_json(path)


def test_tensors_are_as_long_as_their_header_says(tmp_path):
    path = tmp_path / "model.safetensors"
    content = save({"weight": torch.arange(6.0).view(2, 3)}, {"format": "pt"})
    path.write_bytes(content)
    assert torch.equal(load(read_safetensors(path))["weight"], torch.arange(6.0).view(2, 3))
    for size in (0, 7, 8, 20, len(content) - 1, len(content) + 1, 200 * 10**9):
        os.truncate(path, size)
        with pytest.raises(DamagedError, match=r"model\.safetensors: no safetensors file"):
            read_safetensors(path)
