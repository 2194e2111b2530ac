import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from implicit_em.metrics.dictionaries import coherence, matched_cosine, stability, varying

ROWS = arrays(np.float64, (5, 4), elements=st.integers(-9, 9)).filter(
    lambda rows: rows.any(1).all()
)
MOVES = (
    st.permutations(range(5)),
    st.lists(st.sampled_from([-3, -1, 0.5, 1e-170, 1e170]), min_size=5),
)


def moved(rows, order, scales):
    return (rows * np.array(scales[:5])[:, None])[list(order)]


def test_coherence_by_hand():
    half = coherence(np.array([[1, 0, 0], [0, 2, 0], [-5, 5, 0], [0, 0, 1]]))
    assert half[1] == pytest.approx(0.5**0.5)
    assert half[0] == pytest.approx(0.75 * 0.5**0.5), "the last row is like no other"
    assert coherence(np.eye(3)) == (0, 0)
    assert coherence(np.array([[1.0, 2.0], [-3.0, -6.0]])) == pytest.approx((1, 1))


def test_rows_of_zeros_have_no_direction():
    rows = np.random.default_rng(0).standard_normal((6, 4))
    assert coherence(np.r_[rows, np.zeros((2, 4))]) == coherence(rows)
    assert np.isnan(coherence(np.r_[rows[:1], np.zeros((2, 4))])).all()


@given(ROWS, *MOVES)
def test_coherence_does_not_depend_on_order_scale_and_sign(rows, order, scales):
    assert coherence(moved(rows, order, scales)) == pytest.approx(coherence(rows), abs=1e-12)


def test_coherence_of_random_rows_is_that_of_their_cosines():
    rows = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    cosines = [
        [abs(a @ b) / np.sqrt(a @ a * (b @ b)) for b in rows.astype(float) if b is not a]
        for a in rows.astype(float)
    ]
    nearest = [sorted(row)[-2] for row in cosines]
    assert coherence(rows) == pytest.approx((np.mean(nearest), np.max(nearest)))


@given(ROWS, *MOVES)
def test_a_permuted_copy_is_found_again(rows, order, scales):
    assert matched_cosine(rows, moved(rows, order, scales)) == pytest.approx(1)


@given(ROWS, arrays(np.float64, (3, 4), elements=st.integers(-9, 9)), *MOVES)
def test_matching_does_not_depend_on_order_scale_and_sign(rows, others, order, scales):
    expected = matched_cosine(rows, others)
    assert matched_cosine(others, rows) == pytest.approx(expected, abs=1e-12)
    assert matched_cosine(moved(rows, order, scales), others) == pytest.approx(expected, abs=1e-12)


def test_each_row_is_matched_once():
    axes = np.eye(2)
    assert matched_cosine(axes, np.array([[1.0, 0], [1.0, 0]])) == 0.5, "not each to its nearest"
    tilted = np.array([[0.8, 0.6], [1.0, 0.0]])  # both are nearer to the first axis
    assert matched_cosine(axes, tilted) == pytest.approx((0.6 + 1) / 2)


def test_dead_rows_count_against_a_run():
    axes = np.eye(4)
    dead = axes * [[1], [1], [0], [0]]
    assert matched_cosine(axes, dead) == matched_cosine(dead, dead) == 0.5


def test_unequal_sizes_match_the_smaller():
    assert matched_cosine(np.eye(3), np.eye(3)[1:]) == 1


def test_stability_is_the_mean_over_all_pairs_of_seeds():
    axes = np.eye(4)
    runs = [axes[:2], axes[[1, 0]], axes[[0, 2]], axes[2:]]  # 1, 1/2, 0, 1/2, 0, 1/2
    assert stability(runs) == pytest.approx(2.5 / 6)
    assert np.isnan(stability(runs[:1]))


def test_features_that_never_vary_are_left_out_of_the_comparison():
    x = np.array([[0.1, 1, 2], [0.1, 1, 3], [0.1, 2, 2]], dtype=np.float32)
    assert varying(x).tolist() == [False, True, True]
    first, second = np.array([[50.0, 1, 2]]), np.array([[-3.0, 1, 2]])
    assert matched_cosine(first[:, varying(x)], second[:, varying(x)]) == pytest.approx(1)
