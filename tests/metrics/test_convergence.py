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


def test_is_the_first_of_five_consecutive_small_changes():
    #        1  2  3  4    5    6    7    8    9
    losses = [9, 6, 3, 2.5, 2.0, 1.5, 1.0, 0.5, 0.0]
    assert convergence_epoch(losses) == 4


def test_four_small_changes_and_a_large_one_start_the_count_anew():
    losses = np.cumsum([100, 5, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0])
    assert convergence_epoch(losses) == 8


def test_a_change_of_the_threshold_itself_is_not_small():
    assert convergence_epoch([-float(epoch) for epoch in range(20)]) is None
    assert convergence_epoch([-0.999 * epoch for epoch in range(20)]) == 2


def test_a_rising_loss_counts_by_magnitude():
    assert convergence_epoch([2.0 * epoch for epoch in range(20)]) is None


def test_never():
    assert convergence_epoch([100 * 0.9**epoch for epoch in range(20)]) is None


@pytest.mark.parametrize("epochs", range(6))
def test_five_changes_need_six_epochs(epochs):
    assert convergence_epoch([0.0] * epochs) is None
    assert convergence_epoch([0.0] * 6) == 2


@settings(max_examples=50)
@given(st.lists(STEPS, max_size=30), st.sampled_from([0.25, 1.0]), st.integers(1, 6))
def test_agrees_with_the_rule_written_as_a_loop(steps, threshold, patience):
    losses = np.cumsum(np.nan_to_num(steps, nan=7.0)).tolist()
    expected = naive(losses, threshold, patience)
    assert convergence_epoch(losses, threshold, patience) == expected


def test_a_missing_loss_is_not_a_small_change():
    assert convergence_epoch([0, 0, 0, float("nan"), 0, 0, 0, 0, 0, 0]) == 6


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
