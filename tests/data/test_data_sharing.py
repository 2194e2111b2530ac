"""Data modules of one process that read the same."""

import gc
import shutil
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from types import SimpleNamespace

import pytest
import torch
from helpers.arrays import set_up
from torchvision.datasets import MNIST

from implicit_em.data import TorchvisionDataModule, sharing

SPLITS = ("train", "test")


class Digits(MNIST):
    """MNIST, in a folder of this name; notes each reading of a split."""

    read = ()

    def __init__(self, root, train, **arguments):
        Digits.read += ((str(root), "train" if train else "test"),)
        time.sleep(0.05)  # for another thread to come in between
        super().__init__(root, train, **arguments)


class Inverted(TorchvisionDataModule):
    def read(self, train):
        images, labels = super().read(train)
        return 255 - images, labels


@pytest.fixture
def root(small_mnist, tmp_path):
    """A data root of the test's own."""
    shutil.copytree(small_mnist / "MNIST", tmp_path / "a" / "Digits")
    Digits.read = ()
    return tmp_path / "a"


def ready(root, dataset=Digits, module=TorchvisionDataModule, **arguments):
    return set_up(module(dataset, root, **arguments))


def same_tensors(first, second):
    pairs = [zip(first.split(name), second.split(name), strict=True) for name in SPLITS]
    return all(one is other for pair in pairs for one, other in pair)


def test_modules_of_one_source_read_once_and_share_the_tensors(root):
    first = ready(root)
    before = Digits.read
    second = ready(str(root), batch_size=7, val_size=11, seed=5)
    assert Digits.read == before
    assert same_tensors(first, second)
    assert second.sample_shape == first.sample_shape
    assert len(second.train_indices()) == len(first.train_indices()) - 11


def test_other_roots_and_data_sets_are_other_sources(root, small_mnist):
    first = ready(root)
    shutil.copytree(root, root.parent / "b")
    assert not same_tensors(first, ready(root.parent / "b"))
    assert Digits.read[-1] == (str(root.parent / "b"), "test")
    assert not same_tensors(first, ready(small_mnist, MNIST))
    assert same_tensors(first, ready(root)), "still there"
    modules = [ready(root, partial(Digits, transform=t)) for t in (None, None, abs)]
    assert same_tensors(*modules[:2])
    assert not same_tensors(*modules[1:])


def test_a_relative_root_is_read_where_it_lies(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    first = ready("a")
    assert same_tensors(first, ready(root))
    shutil.copytree(root, root / "a")
    monkeypatch.chdir(root)
    assert not same_tensors(first, ready("a"))


def test_files_that_have_changed_are_read_anew_and_the_old_data_let_go(root):
    first = ready(root)
    old = first.split("train")[0]
    path = root / "Digits" / "raw" / "train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:16] + bytes(255 - byte for byte in content[16:]))
    second = ready(root)
    assert torch.equal(second.split("train")[0], 255 - old)
    assert torch.equal(first.split("train")[0], old), "a module keeps what it has read"
    gone = weakref.ref(old)
    del first, old
    gc.collect()
    assert gone() is None


def test_only_what_is_used_or_was_used_last_stays(root):
    shutil.copytree(root, root.parent / "b")
    first = ready(root, normalize="centre")
    assert [splits.normalizer is None for splits in sharing._last] == [False], "not as it was read"
    gone = weakref.ref(first.split("train")[0])
    ready(root.parent / "b")
    assert same_tensors(first, ready(root, normalize="centre")), "in use"
    del first
    gc.collect()
    assert gone() is not None, "used last"
    ready(root.parent / "b")
    gc.collect()
    assert gone() is None


def test_a_subclass_that_reads_otherwise_shares_nothing(root):
    inverted, plain = ready(root, module=Inverted), ready(root)
    assert torch.equal(inverted.split("test")[0], 255 - plain.split("test")[0])
    assert not same_tensors(inverted, ready(root, module=Inverted))


def test_a_dataset_whose_files_cannot_be_told_is_not_shared(root):
    def dataset(root, train, download=False):
        return Digits(root, train=train, download=download)

    assert not same_tensors(ready(root, dataset), ready(root, dataset))


def test_threads_share_too(root):
    barrier = Barrier(4)

    def together(_):
        barrier.wait()
        return ready(root)

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(together, range(4))
    assert Digits.read.count((str(root), "test")) == 1
    assert all(same_tensors(first, other) for other in others)


def test_another_device_has_one_copy(root):
    here, *there = (ready(root) for _ in range(3))
    for data in there:
        data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    assert there[0].split("train")[0].is_meta
    assert same_tensors(*there)
    assert here.split("train")[0].device.type == "cpu"
