import json

import pytest

from implicit_em.base.errors import DamagedError
from implicit_em.base.files import read_bytes, read_json, whole, write_json


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), object()])
def test_json_refuses_what_it_cannot_write_and_leaves_the_file(tmp_path, value):
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises((TypeError, ValueError), match="not JSON"):
        write_json(path, {"nested": [{"loss": value}]})
    assert json.loads(path.read_text()) == {"loss": 1.0}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("read", [read_bytes, read_json])
def test_what_cannot_be_read_is_named(tmp_path, read):
    path = tmp_path / "model.json"
    path.mkdir()
    with pytest.raises(DamagedError, match=r"model\.json cannot be read: Is a directory"):
        read(path)
    path.rmdir()
    path.symlink_to("/proc/self/mem")  # a regular file that has no byte at its start
    with pytest.raises(DamagedError, match=r"model\.json cannot be read: Input/output"):
        read(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(path)


@pytest.mark.parametrize(
    "content",
    [b"[" * 10**5, b"NaN", b'{"a": 1e999}', b"9" * 5_000, b"\xff", b'"\\ud800"', b""],
)
def test_what_is_no_json_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"model\.json"):
        read_json(path)
