import pytest
import torch
from helpers.arrays import set_up
from helpers.data import SIDE, write_idx
from torchvision.datasets import KMNIST, MNIST, FashionMNIST

from implicit_em.data import ResidentDataModule, TorchvisionDataModule, modules

TRAIN, TEST = 50, 20


@pytest.fixture(params=[MNIST, FashionMNIST, KMNIST])
def archive(request, tmp_path):
    """A small data set of torchvision's layout; the first pixel of an image tells its index."""
    folder = tmp_path / request.param.__name__ / "raw"
    folder.mkdir(parents=True)
    for name, size in (("train", TRAIN), ("t10k", TEST)):
        images = torch.randint(256, (size, SIDE, SIDE), dtype=torch.uint8)
        images[:, 0, 0] = torch.arange(size)
        write_idx(folder / f"{name}-images-idx3-ubyte", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte", torch.arange(size) % 10)
    return request.param, tmp_path


class Columns(ResidentDataModule):
    """Floating-point samples of one column that tell their index."""

    def __init__(self, size=50, **arguments):
        super().__init__(**arguments)
        self.size = size
        self.reads = 0

    def read(self, train):
        self.reads += 1
        indices = torch.arange(self.size if train else 20)
        return indices[:, None] / 2, indices


def labels(resident):
    return [label for _, batch in resident for label in batch.tolist()]


def test_reads_torchvisions_files(archive):
    dataset, root = archive
    data = set_up(TorchvisionDataModule(dataset, root, batch_size=16))
    assert (data.in_features, data.sample_shape) == (SIDE * SIDE, (SIDE, SIDE))
    for name, size in (("train", TRAIN), ("test", TEST)):
        images, targets = data.split(name)
        assert images.dtype == torch.uint8
        assert images.shape == (size, SIDE * SIDE)
        assert images[:, 0].tolist() == list(range(size))
        assert targets.tolist() == [index % 10 for index in range(size)]


def test_batches_hold_the_images_with_their_labels(archive):
    data = set_up(TorchvisionDataModule(*archive, batch_size=16))
    seen = []
    for x, targets in data.train_dataloader():
        indices = (x[:, 0] * 255).round().long()
        assert x.dtype == torch.float32
        assert x.shape[1] == SIDE * SIDE
        assert torch.equal(indices % 10, targets)
        seen += indices.tolist()
    assert sorted(seen) == list(range(TRAIN))
    (x, targets), *rest = data.test_dataloader()
    assert not rest
    assert (x[:, 0] * 255).round().tolist() == list(range(TEST))
    assert len(targets) == TEST


def test_what_a_model_is_measured_on_is_the_test_set_or_what_is_held_out(archive):
    data = set_up(TorchvisionDataModule(*archive, val_size=6, final="validation"))
    ((x, targets),) = data.test_dataloader()
    indices = (x[:, 0] * 255).round().long()
    assert torch.equal(indices, data.monitored_indices())
    assert torch.equal(targets, indices % 10)
    assert not set(indices.tolist()) & set(data.train_indices().tolist())
    samples, labels = data.final_samples()
    assert torch.equal(samples[:, 0].long(), indices)
    assert torch.equal(labels, targets)
    assert len(set_up(TorchvisionDataModule(*archive, val_size=6)).final_samples()[0]) == TEST


def test_all_samples_are_measured_also_one_beyond_full_batches(monkeypatch):
    monkeypatch.setattr(modules, "EVALUATION_BATCH", 19)
    data = set_up(Columns(batch_size=16, val_size=20))
    assert len(labels(data.test_dataloader())) == len(labels(data.val_dataloader())) == 20


def test_nothing_held_out_is_nothing_to_measure_on(archive):
    with pytest.raises(ValueError, match="final=validation: needs val_size of at least 2, not 0"):
        TorchvisionDataModule(*archive, final="validation")
    with pytest.raises(ValueError, match="needs val_size of at least 2, not 1"):
        TorchvisionDataModule(*archive, final="validation", val_size=1)
    with pytest.raises(ValueError, match="final=train: allowed are test, validation"):
        TorchvisionDataModule(*archive, final="train")


def test_setup_reads_both_splits_once():
    data = Columns()
    for stage in ("fit", "validate", "test", None):
        data.setup(stage)
    assert data.reads == 2


def test_held_out_samples_are_never_trained_on():
    data = set_up(Columns(batch_size=16, val_size=11))
    trained, held_out = labels(data.train_dataloader()), labels(data.val_dataloader())
    assert len(held_out) == 11
    assert sorted(held_out) not in (list(range(11)), list(range(39, 50)))
    assert sorted(trained + held_out) == list(range(50))
    assert trained != sorted(trained)
    assert sorted(labels(data.train_dataloader())) == sorted(trained)


def test_a_model_starts_from_all_training_samples_or_a_fixed_choice():
    data = set_up(Columns(val_size=10, seed=1))
    everything = data.starting_samples()
    assert torch.equal(2 * everything.squeeze(), data.train_indices().float())
    some = data.starting_samples(7)
    assert some.shape == (7, 1)
    assert torch.isin(some, everything).all()
    assert torch.equal(some, set_up(Columns(val_size=10, seed=2)).starting_samples(7))
    assert torch.equal(data.starting_samples(100), everything)


def test_the_split_is_fixed_whatever_seed_and_batch_size():
    first = set_up(Columns(val_size=11, seed=1, batch_size=16))
    second = set_up(Columns(val_size=11, seed=2, batch_size=5))
    assert torch.equal(first.monitored_indices(), second.monitored_indices())
    assert torch.equal(first.train_indices(), second.train_indices())
    assert labels(first.train_dataloader()) != labels(second.train_dataloader())


def test_without_held_out_samples_10_000_training_samples_are_monitored():
    data = set_up(Columns(size=10_050))
    monitored = data.monitored_indices()
    assert len(monitored) == len(monitored.unique()) == 10_000
    assert monitored.max() < 10_050
    assert torch.equal(monitored, set_up(Columns(size=10_050, seed=5)).monitored_indices())
    assert len(data.train_indices()) == 10_050
    assert labels(data.val_dataloader()) == monitored.tolist()
    assert set_up(Columns()).monitored_indices().tolist() == list(range(50)), (
        "a small set as a whole"
    )


def test_what_could_not_be_normalised_is_not_taken_for_normalised(monkeypatch):
    data = Columns(normalize="scale")
    with monkeypatch.context() as patch:
        patch.setattr(Columns, "_fitted", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            data.setup()
    data.setup()
    assert float(data.split("train")[0].square().mean()) == pytest.approx(1)


@pytest.mark.parametrize("val_size", [49, 50, 51])
def test_holding_out_too_much_is_refused(val_size):
    with pytest.raises(ValueError, match=rf"^val_size={val_size}: .*at least 2 of 50 samples"):
        Columns(val_size=val_size).setup()
    assert len(set_up(Columns(val_size=48)).train_indices()) == 2
