import logging

import numpy as np
import pytest
import torch

from implicit_em.data import ResidentLoader, as_unit_float


def loader(samples=22, batch_size=4, seed=7, **arguments):
    """A loader whose samples and labels both tell their index."""
    indices = torch.arange(samples)
    inputs = indices[:, None].expand(samples, 3).to(torch.uint8)
    return ResidentLoader(inputs, indices, batch_size, seed=seed, **arguments)


def labels(batches):
    return [batch_labels.tolist() for _, batch_labels in batches]


def epochs(resident, count):
    return [labels(resident) for _ in range(count)]


def flat(batches):
    return [label for batch in batches for label in batch]


def test_gives_every_sample_once_an_epoch_in_a_new_order():
    first, second = epochs(loader(), 2)
    assert sorted(flat(first)) == sorted(flat(second)) == list(range(22))
    assert first != second
    assert flat(first) != list(range(22))


def test_the_order_depends_on_seed_and_epoch_alone():
    expected = epochs(loader(), 3)
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002 (it is the global generator that must not matter)
    assert epochs(loader(), 3) == expected
    assert epochs(loader(seed=8), 3) != expected
    resident = loader()
    resident.set_epoch(2)
    assert labels(resident) == expected[2]


def test_iterating_leaves_the_global_generators_alone():
    torch.manual_seed(0)
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(0)
    state = np.random.get_state()  # noqa: NPY002
    labels(loader())
    assert torch.rand(1) == expected[0]
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002


def test_set_epoch_starts_that_epoch_from_its_first_batch():
    expected = epochs(loader(), 3)
    resident = loader()
    labels(resident)
    resident.set_epoch(0)
    assert labels(resident) == expected[0]
    next(iter(resident))
    resident.set_epoch(2)
    assert labels(resident) == expected[2]


def test_an_abandoned_epoch_is_followed_by_the_next_one_from_its_first_batch():
    expected = epochs(loader(), 2)
    resident = loader()
    for number, (_, _) in enumerate(resident):
        if number == 2:
            break
    assert labels(resident) == expected[1]


def test_bytes_become_float32_of_exactly_a_255th():
    values = torch.arange(256, dtype=torch.uint8)
    scaled = as_unit_float(values)
    assert scaled.dtype == torch.float32
    assert np.array_equal(scaled.numpy(), np.arange(256, dtype=np.float32) / np.float32(255))
    assert values.dtype == torch.uint8
    assert torch.equal(values, torch.arange(256))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floating_point_inputs_pass_as_they_are(dtype):
    inputs = torch.linspace(-3, 300, 10, dtype=dtype)[:, None]
    (batch,) = [batch for batch, _ in ResidentLoader(inputs, torch.arange(10), batch_size=10)]
    assert batch.dtype == dtype
    assert torch.equal(batch, inputs)


@pytest.mark.parametrize(
    ("samples", "batch_size", "sizes"),
    [
        (22, 4, [4, 4, 4, 4, 4, 2]),
        (8, 4, [4, 4]),
        (3, 4, [3]),
        (2, 4, [2]),
        (9, 4, [4, 4]),
        (1, 4, []),
        (3, 1, [1, 1, 1]),
    ],
)
def test_the_last_batch_is_kept_but_for_a_single_sample(samples, batch_size, sizes):
    resident = loader(samples, batch_size)
    assert len(resident) == len(sizes)
    assert [len(batch) for batch in labels(resident)] == sizes


def test_a_sample_left_out_is_said_once(caplog):
    caplog.set_level(logging.INFO, "implicit_em")
    resident = loader(samples=9)
    given = [frozenset(flat(epoch)) for epoch in epochs(resident, 5)]
    assert [record.getMessage() for record in caplog.records] == [
        "The last batch would hold a single sample, which has no variance: left out."
    ]
    assert len(set(given)) > 1, "not always the same sample"
    caplog.clear()
    labels(loader(samples=22))
    labels(loader(samples=3, batch_size=1))
    assert not caplog.records, "nothing is left out"


def test_without_a_seed_the_order_stays():
    indices = torch.tensor([5, 3, 8, 1])
    resident = loader(seed=None, batch_size=3, indices=indices)
    with_a_single_one = [[5, 3, 8], [1]]
    assert epochs(resident, 2) == [with_a_single_one, with_a_single_one]
    assert labels(loader(seed=None, batch_size=2, indices=indices)) == [[5, 3], [8, 1]]


@pytest.mark.parametrize("position", range(1, 7))
def test_a_restored_position_gives_exactly_the_remaining_batches(position):
    expected = epochs(loader(), 4)
    interrupted = loader()
    labels(interrupted)
    iterator = iter(interrupted)
    for _ in range(position):
        next(iterator)
    resumed = loader()
    resumed.load_state_dict(interrupted.state_dict())
    assert labels(resumed) == expected[1][position:]
    assert epochs(resumed, 2) == expected[2:]


def test_a_position_before_the_first_batch_is_restored_too():
    resumed = loader()
    labels(resumed)
    resumed.load_state_dict(loader().state_dict())
    assert labels(resumed) == labels(loader())


@pytest.mark.parametrize(("announced", "first"), [([], 2), ([1], 2), ([2], 0), ([1, 2], 0)])
def test_a_restored_position_survives_the_announcement_of_its_epoch_alone(announced, first):
    expected = epochs(loader(), 3)
    resumed = loader()
    resumed.load_state_dict({"epoch": 1, "batch": 2})
    for epoch in announced:
        resumed.set_epoch(epoch)
    assert labels(resumed) == expected[[1, *announced][-1]][first:]


@pytest.mark.parametrize(
    ("samples", "sizes"), [(22, [4] * 5), (20, [4] * 5), (21, [4] * 5), (3, [3])]
)
def test_a_smaller_last_batch_is_left_out_unless_it_is_the_only_one(samples, sizes):
    resident = loader(samples, drop_last=True)
    (first,) = epochs(resident, 1)
    assert list(map(len, first)) == sizes
    assert len(resident) == len(sizes)
    whole = epochs(loader(samples), 1)[0]
    assert first == whole[: len(sizes)], "nothing else changes"
