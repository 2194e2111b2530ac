"""Data that are damaged, missing, unreadable or not fit to be trained on."""

import gzip
import hashlib
import math
import shutil
import socket
import threading

import pandas as pd
import pytest
import torch
from helpers.data import write_idx
from helpers.disks import make_read_only, small_disk
from helpers.ports import free_ports
from helpers.waiting import soon
from torchvision.datasets import MNIST

from implicit_em.base.errors import ConfigError
from implicit_em.data import ResidentDataModule, TorchvisionDataModule, modules
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"


class Digits(MNIST):
    """MNIST in a folder of this name, whose archives and server a test chooses."""


@pytest.fixture
def raw(small_mnist, tmp_path):
    """The folder of an unpacked data set of the test's own."""
    folder = tmp_path / "data" / "Digits" / "raw"
    shutil.copytree(small_mnist / "MNIST" / "raw", folder)
    return folder


@pytest.fixture
def packed(raw, monkeypatch):
    """The same folder with archives alone, whose sums are known; its server does not exist."""
    resources = []
    for path in sorted(raw.iterdir()):
        archive = path.with_name(f"{path.name}.gz")
        archive.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        resources.append((archive.name, hashlib.md5(archive.read_bytes()).hexdigest()))
        path.unlink()
    monkeypatch.setattr(Digits, "resources", resources)
    monkeypatch.setattr(Digits, "mirrors", [f"http://127.0.0.1:{free_ports(1)[0]}/"])
    return raw


def read(raw):
    data = TorchvisionDataModule(Digits, raw.parents[1], batch_size=64)
    data.prepare_data()
    data.setup()
    return data


def refusal_of(raw):
    """Return the one line by which the data are refused; soon, and nothing is written."""
    before = {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    with soon(), pytest.raises(ConfigError) as refused:
        read(raw)
    assert {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()} == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


def flip(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "a bit flipped": lambda content: flip(content, 4 * len(content)),
    "wrong magic": lambda content: b"PK" + content[2:],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
}


def test_good_archives_are_unpacked(packed):
    assert len(read(packed).split("train")[0]) == 600


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_archive_is_refused_without_a_network(packed, damage):
    archive = packed / f"{TEST_IMAGES}.gz"  # the first that is unpacked
    archive.write_bytes(DAMAGE[damage](archive.read_bytes()))
    line = refusal_of(packed)
    assert line.startswith(f"train split in {packed.parents[1]}: RuntimeError: ")
    assert archive.name in line
    assert "Connection refused" in line


def test_a_server_that_keeps_silent_is_given_up(packed, monkeypatch):
    monkeypatch.setattr(modules, "PATIENCE", 0.2)
    (packed / f"{TEST_IMAGES}.gz").unlink()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(Digits, "mirrors", [address, address])
        line = refusal_of(packed)
    assert "timed out" in line
    assert socket.getdefaulttimeout() is None


def test_what_a_server_broke_off_is_never_unpacked(packed, monkeypatch):
    name = f"{TEST_IMAGES}.gz"
    half = (packed / name).read_bytes()[:100]
    (packed / name).unlink()
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\n" + half

    def serve(server):
        for _ in range(2):  # where to, and the archive
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(Digits, "mirrors", [f"http://127.0.0.1:{server.getsockname()[1]}/"])
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        with pytest.raises(ConfigError, match="train split"):
            read(packed)
        thread.join()
    assert not (packed / TEST_IMAGES).exists()
    assert name in refusal_of(packed), "the half is no archive either"


@pytest.mark.parametrize("name", [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS])
@pytest.mark.parametrize("damage", ["truncated", "wrong magic", "empty", "longer"])
def test_a_damaged_unpacked_file_is_refused(raw, name, damage):
    path = raw / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    split = "train" if name.startswith("train") else "test"
    assert f"{split} split in {raw.parents[1]}" in refusal_of(raw)


@pytest.mark.parametrize(("name", "bits"), [(TRAIN_IMAGES, 128), (TEST_LABELS, 64)])
def test_every_flipped_bit_of_a_header_is_refused(raw, name, bits):
    path = raw / name
    content = path.read_bytes()
    for bit in range(bits):
        path.write_bytes(flip(content, bit))
        assert " split" in refusal_of(raw), bit


@pytest.mark.parametrize("wrong", [10, 135, 255])
def test_a_label_of_no_class_is_refused(raw, wrong):
    path = raw / TRAIN_LABELS
    content = bytearray(path.read_bytes())
    content[8 + 42] = wrong
    path.write_bytes(content)
    line = refusal_of(raw)
    assert f"train split: label {wrong} of sample 42; the data set has the classes 0 to 9" in line


def test_other_numbers_of_images_and_labels_are_refused(raw):
    write_idx(raw / TEST_LABELS, torch.zeros(199))
    assert "test split: 200 samples, but 199 labels" in refusal_of(raw)


@pytest.mark.parametrize("size", [0, 1])
def test_a_split_without_two_images_is_refused(raw, size):
    write_idx(raw / TEST_IMAGES, torch.zeros(size, 8, 8))
    write_idx(raw / TEST_LABELS, torch.zeros(size))
    assert "test split" in refusal_of(raw)


def test_splits_of_unlike_shapes_are_refused(raw):
    write_idx(raw / TEST_IMAGES, torch.zeros(200, 4, 16))
    assert "samples of unlike shapes: (4, 16) and (8, 8)" in refusal_of(raw)


def test_damaged_data_end_a_run_in_one_line(refused, small, raw):
    (raw / TRAIN_IMAGES).write_bytes(b"")
    own = [f"data.root={raw.parents[1]}", f"data.dataset._target_={__name__}.Digits"]
    assert refused(*small, *own).startswith("error: data: train split in ")


@pytest.fixture
def read_only(raw, tmp_path):
    """The data, as they are by then, on a disk that nobody can write to."""
    with small_disk(tmp_path / "disk") as disk:
        shutil.copytree(raw, disk / "Digits" / "raw")
        make_read_only(disk)
        yield disk / "Digits" / "raw"


def test_unpacked_data_on_a_read_only_disk_train(composed, small, read_only, tmp_path):
    own = [f"data.root={read_only.parents[1]}", f"data.dataset._target_={__name__}.Digits"]
    with pytest.raises(OSError, match="Read-only"):
        (read_only / "anything").touch()
    metrics = train(composed(*small, *own, "probe=none"), tmp_path / "run")
    assert metrics["status"] == "completed"


def test_packed_data_on_a_read_only_disk_are_refused(packed, read_only):
    assert "Read-only file system" in refusal_of(read_only)


class Given(ResidentDataModule):
    """Samples of ten classes, of which a test says what is wrong with them."""

    def __init__(self, change, **arguments):
        super().__init__(**arguments)
        self.change = change

    def read(self, train):
        count = 300 if train else 100
        labels = torch.arange(count) % 10
        generator = torch.Generator().manual_seed(count)
        samples = torch.rand(count, 8, generator=generator) + torch.eye(10)[labels][:, :8]
        if self.change == "constant features":
            samples[:, [0, 3, 7]] = torch.tensor([0.0, 1.0, -5.0])
        elif self.change == "constant images":
            samples[:] = samples[0]
        elif self.change == "one class":
            labels[:] = 4
        elif self.change == "integers":
            samples = (255 * samples).long()
        elif self.change == "no features":
            samples = samples[:, :0]
        elif not train and self.change is not None:
            samples[[7, 30], [2, 1]] = self.change
        return samples, labels


def given(composed, small, change):
    own = [f"data._target_={__name__}.Given", f"+data.change={change}", "~data.dataset"]
    own += ["~data.root", "metrics_every=1"]
    return composed(*small[1:], *own)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (math.nan, r"data: test split: nan at \[7, 2\]; all must be finite"),
        (-math.inf, r"data: test split: -inf at \[7, 2\]; all must be finite"),
        ("integers", r"data: train split: samples of torch.int64; allowed are uint8.*and floating"),
        ("no features", r"data: train split: 300 samples of shape \(0,\)"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(composed, small, change, reason):
    with pytest.raises(ConfigError, match=reason):
        RunSpec.of(given(composed, small, change)).build_data()


def test_constant_features_train(composed, small, tmp_path):
    metrics = train(given(composed, small, "constant features"), tmp_path)
    assert metrics["status"] == "completed"
    assert metrics["redundancy"] >= 0
    assert metrics["probe_accuracy"] > 0.2, "a tenth by chance"


def test_of_constant_images_what_cannot_be_computed_is_null(composed, small, tmp_path):
    metrics = train(given(composed, small, "constant images"), tmp_path)
    assert metrics["status"] == "completed"
    assert metrics["dead_units"] == 5
    assert metrics["redundancy"] is None
    assert metrics["probe_accuracy"] == 0.1, "a tenth of the test labels"
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["monitor/redundancy"].isna().all()
    assert "nan" not in (tmp_path / "history.csv").read_text()


def test_of_a_single_class_nothing_is_probed(composed, small, tmp_path):
    metrics = train(given(composed, small, "one class"), tmp_path)
    assert (metrics["status"], metrics["probe_accuracy"]) == ("completed", None)
