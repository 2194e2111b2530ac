"""Samples of files that memory may not hold: they stay in the file, and train to the same bits."""

import json
import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from helpers import changes
from helpers.arrays import BRIEF, WIDTH, draw, ready, set_up, write
from helpers.processes import trained_in_a_process
from helpers.results import results
from helpers.stores import make_store

from implicit_em.base import digest
from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.data import TensorDataModule, arrays, tensors
from implicit_em.data.on_disk import SamplesOnDisk
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.configuration import digest_of_store
from implicit_em.language.store import save_tensors


@pytest.fixture
def everything_is_large(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tensors, "LARGE", 0)
    monkeypatch.setattr(arrays, "VALUES", 50 * WIDTH)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("X.npy", ["data.labels=y.npy", "data.val_size=30", "data.final=validation"]),
        ("X.safetensors", ["data.normalize=standard"]),
        ("X.npy", ["data.test_path=T.pt", "model=l1", "model.hidden=5"]),
    ],
)
def test_a_run_on_samples_in_their_file_gives_the_same_bits(
    command_line, tmp_path, monkeypatch, name, options
):
    write(tmp_path / name, x=draw()[0])
    write(tmp_path / "T.pt", x=draw(seed=1)[0])
    np.save("y.npy", np.arange(300) % 3)
    typed = ["data=tensors", f"data.path={name}", *options, *BRIEF]
    assert command_line(*typed, "hydra.run.dir=memory") == 0
    os.utime(name)  # to be read anew
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "LARGE", 0)
        assert isinstance(ready(name).split("train")[0], SamplesOnDisk)
        assert command_line(*typed, "hydra.run.dir=file") == 0
    assert results(tmp_path / "file") == results(tmp_path / "memory")


@pytest.mark.parametrize("option", ["none", "centre", "standard", "scale", "l2", "zca"])
def test_gathered_rows_are_those_of_a_tensor(everything_is_large, monkeypatch, option):
    samples, rows = draw()[0], torch.tensor([5, 3, 3, 200])
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "LARGE", 2**30)
        expected, _ = ready(write(Path("X.npy"), x=samples), normalize=option).split("train")
    os.utime("X.npy")  # to be read anew
    found, _ = ready("X.npy", normalize=option).split("train")
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    # A product of matrices rounds by the number of its rows.
    tolerance = 1e-6 if option == "zca" else 0
    for ours, theirs in (
        (found.index_select(0, rows), expected[rows]),
        (found[rows].in_memory(), expected[rows]),
        (torch.cat(list(found.split(70))), expected),
    ):
        assert torch.allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("rows", [[7], [0, 299], [3, 4, 5, 6], [10, 13, 14, 17], range(300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_rows_are_read_together_where_they_lie_together(tmp_path, monkeypatch, rows, dtype):
    sizes, fill = [], arrays._fill
    monkeypatch.setattr(arrays, "_fill", lambda *a: sizes.append(a[2].nbytes) or fill(*a))
    values, rows = torch.tensor(draw()[0]).to(dtype), torch.tensor(list(rows), dtype=torch.int64)
    save_tensors(tmp_path / "X.safetensors", {"w": torch.zeros(3), "x": values})
    with arrays.unchanged(tmp_path / "X.safetensors") as file:
        found = arrays.in_safetensors(file)["x"]
    found.read(rows, out := torch.empty(len(rows), WIDTH, dtype=dtype))
    assert torch.equal(out, values[rows])
    assert len(sizes) == 1 + int((rows.diff() > arrays.APART).sum())
    assert sum(sizes) <= arrays.APART * values[rows].nbytes


@pytest.fixture(params=["npy", "safetensors", "store"])
def on_disk(request, everything_is_large, tmp_path):
    """What makes a data module whose samples stay in their file, and one of their files."""
    if request.param == "store":
        store = make_store(tmp_path / "store", [("train", [300, 200]), ("test", [80])])
        pinned = digest_of_store(store)
        make = partial(ActivationDataModule, store, buffer=3_000, digest=pinned)
        return make, store / "train-00001.safetensors"
    file = write(Path(f"X.{request.param}"), x=draw()[0])
    pinned = digest.digest_of(file, None, file, None)
    return partial(TensorDataModule, file, test_path=file, digest=pinned), file


@pytest.mark.parametrize("change", changes.OF_A_FILE)
def test_of_a_file_that_changed_nothing_is_read_even_if_its_digest_is_right_again(on_disk, change):
    make, file = on_disk
    data = set_up(make())
    samples, rows = data.split("train")[0], data.train_indices()
    expected = samples.index_select(0, rows)
    assert data.state_dict() == {}
    undo, pipe = change(file), " cannot be read: no regular file"
    for after in (lambda: None, undo):
        after()
        for refused in (
            lambda: samples.index_select(0, rows),
            lambda: samples.window(rows).result(),
            lambda: data.state_dict(),  # what Lightning asks for before it saves
        ):
            said = rf"{file.name}(: changed, replaced or deleted|{pipe})"
            with pytest.raises(DamagedError, match=said):
                refused()
    again = set_up(make()).split("train")[0].index_select(0, rows)
    assert torch.equal(again, expected), "a module that comes after reads it"


def test_a_file_that_changes_while_it_is_read_is_noticed(on_disk, monkeypatch):
    make, file = on_disk
    data = set_up(make())
    samples, fill = data.split("train")[0], arrays._fill
    monkeypatch.setattr(arrays, "_fill", lambda *a: fill(*a) or os.utime(file))
    with pytest.raises(DamagedError, match="changed, replaced or deleted"):
        samples.index_select(0, data.train_indices())


def test_what_is_read_has_the_digest_that_was_compared(on_disk):
    make, file = on_disk
    data = make()
    data.prepare_data()
    changes.overwritten(file)
    with pytest.raises(DamagedError, match=r"changed, replaced or deleted|damaged"):
        data.setup()


def test_a_model_that_starts_from_more_than_memory_holds_is_refused(
    everything_is_large, monkeypatch, command_line, capfd
):
    write(Path("X.npy"), x=draw()[0])
    memory = type("Memory", (), {"available": 5_000_000, "total": 10**9})
    monkeypatch.setattr(arrays.psutil, "virtual_memory", lambda: memory)
    typed = ["data=tensors", "data.path=X.npy", "model=sampled", *BRIEF]
    assert command_line(*typed, "hydra.run.dir=enough") == 0
    memory.available = 5_000
    assert command_line(*typed, "hydra.run.dir=short") == 2
    assert "of samples must be held in memory" in capfd.readouterr().err


def test_a_file_that_leaves_no_sample_for_testing_is_refused(everything_is_large):
    write(Path("X.npy"), x=draw(100)[0].reshape(2, 50, WIDTH))
    with pytest.raises(ConfigError, match="test split: 0 samples; at least 2 are needed"):
        ready("X.npy", feature_dims=1)


def test_the_digest_of_a_long_file_shows_its_progress(tmp_path, monkeypatch, capfd):
    path = tmp_path / "X.npy"
    np.save(path, draw()[0])
    short = digest.digest_of(path)
    assert capfd.readouterr().out == ""
    monkeypatch.setattr(digest, "LONG", 1_000)
    os.utime(path)
    assert digest.digest_of(path) == short
    assert capfd.readouterr().out == "digest of X.npy: 0.0 GB ...\n"


def sparse(path, rows, width):
    """A file of zeros that takes no room on the disk, but for its first rows."""
    if path.suffix == ".npy":
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
        array[:100] = np.random.default_rng(0).normal(size=(100, width))
        return
    entry = {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * rows * width]}
    header = json.dumps({"x": entry}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * rows * width)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["X.npy", "X.safetensors"])
def test_32_gigabytes_train_in_2(name):
    typed = [f"data.path={name}", "data.batch_size=1024", "model.hidden=5", "trainer.max_epochs=1"]
    typed += ["data=tensors", "probe=none", "logger=csv"]
    with TemporaryDirectory() as folder:  # on a disk: tmp_path may lie in memory
        sparse(Path(folder) / name, 2**21, 2**12)
        printed, peak = trained_in_a_process(folder, *typed)
    assert f"digest of {name}: 34.4 GB" in printed
    assert peak < 2 * 2**30
