import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_em.metrics.convergence import convergence_epoch, settling_epoch

STEPS = st.sampled_from([0.0, 0.5, -0.5, 0.999, 1.0, -1.0, 1.5, float("nan")])


def naive(losses, threshold, patience):
    """The rule, epoch by epoch, counted from 1."""
    in_a_row = 0
    for epoch in range(2, len(losses) + 1):
        settled = abs(losses[epoch - 1] - losses[epoch - 2]) < threshold
        in_a_row = in_a_row + 1 if settled else 0
        if in_a_row == patience:
            return epoch - patience + 1
    return None


CASES = {
    "the first of five small changes": ([9, 6, 3, 2.5, 2, 1.5, 1, 0.5, 0], 4),
    "four small changes and a large one": ([100, 105, 105, 105, 105, 105, 110] + [110] * 5, 8),
    "changes of the threshold itself": ([-float(epoch) for epoch in range(20)], None),
    "changes just below it": ([-0.999 * epoch for epoch in range(20)], 2),
    "a rising loss counts by magnitude": ([2.0 * epoch for epoch in range(20)], None),
    "never": ([100 * 0.9**epoch for epoch in range(20)], None),
    "a missing loss is no small change": ([0, 0, 0, float("nan"), 0, 0, 0, 0, 0, 0], 6),
    "five changes": ([0.0] * 6, 2),
    **{f"{epochs} epochs": ([0.0] * epochs, None) for epochs in range(6)},
}


@pytest.mark.parametrize(("losses", "epoch"), CASES.values(), ids=CASES)
def test_is_the_first_of_five_consecutive_small_changes(losses, epoch):
    assert convergence_epoch(losses) == epoch


@settings(max_examples=50)
@given(st.lists(STEPS, max_size=30), st.sampled_from([0.25, 1.0]), st.integers(1, 6))
def test_agrees_with_the_rule_written_as_a_loop(steps, threshold, patience):
    losses = np.cumsum(np.nan_to_num(steps, nan=7.0)).tolist()
    expected = naive(losses, threshold, patience)
    assert convergence_epoch(losses, threshold, patience) == expected


def changes(path):
    """The distances of a path over one epoch and over ten, as a history has them."""
    path = np.asarray(path, dtype=float)
    over_ten = np.full(len(path) - 1, np.nan)
    over_ten[9:] = np.abs(path[10:] - path[:-10])
    return np.abs(np.diff(path)), over_ten


def test_a_drift_never_settles_however_slow_it_gets():
    assert settling_epoch(*changes(np.arange(60))) is None
    assert settling_epoch(*changes(np.log(np.arange(1, 200)))) is None


def test_what_fluctuates_about_a_place_settles_with_its_first_ten_epochs():
    assert settling_epoch(*changes([0, 1] * 20)) == 10


def test_a_run_settles_where_its_drift_ends():
    there = np.concatenate([np.arange(30.0), 30 + np.tile([0.0, 1.0], 20)])
    assert settling_epoch(*changes(there)) == 38


def test_the_last_epochs_decide():
    assert settling_epoch([1.0] * 5, [3.0] * 5) == 1
    assert settling_epoch([1.0] * 4, [3.0] * 4) is None
    assert settling_epoch([1.0] * 6, [3.0] * 5 + [3.2]) is None
    assert settling_epoch([1.0] * 6, [3.2] + [3.0] * 5) == 2
    assert settling_epoch([], []) is None


@given(st.floats(1e-3, 1e3), st.integers(0, 99))
def test_neither_rate_nor_scale_matters(factor, seed):
    path = np.random.default_rng(seed).normal(size=40).cumsum()
    over_one, over_ten = changes(path)
    assert settling_epoch(over_one, over_ten) == settling_epoch(
        factor * over_one, factor * over_ten
    )
