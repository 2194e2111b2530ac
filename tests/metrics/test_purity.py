import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from implicit_em.metrics.densities import RELATIVE, unit_densities
from implicit_em.metrics.purity import class_purity, top_classes, top_purity

LABELS = np.array([7, 7, 7, 3, 3, 9])


def test_by_hand():
    units = np.array([[0, 2, 0, 0, 0, 0], [1, 0, 1, -4, 0, 2], [0, 0, 0, 0, 0, 0]]).T
    assert class_purity(units[:, :1], LABELS) == 1
    assert class_purity(units[:, 1:2], LABELS) == 4 / 8
    assert class_purity(units, LABELS) == 0.75, "the dead unit is left out"
    assert np.isnan(class_purity(units[:, 2:], LABELS))


def test_a_unit_that_tells_nothing_apart_has_the_share_of_the_commonest_class():
    assert class_purity(np.full((6, 2), 0.25), LABELS) == 0.5


@given(arrays(np.bool_, (6, 4)))
def test_of_zeros_and_ones_it_is_the_share_of_the_activating_samples(fires):
    shares = [
        max(np.mean(LABELS[unit] == label) for label in (3, 7, 9)) for unit in fires.T if unit.any()
    ]
    expected = np.mean(shares) if shares else np.nan
    assert class_purity(fires.astype(float), LABELS) == pytest.approx(expected, nan_ok=True)


@given(
    arrays(np.float32, (6, 3), elements=st.floats(-8, 8, width=16)),
    st.permutations(range(6)),
    st.integers(-9, 9),
)
def test_order_scale_and_sign_matter_neither_to_it_nor_to_densities(activations, order, exponent):
    moved = -(2.0**exponent) * activations[list(order)]
    for relative in (0, RELATIVE):
        densities = [unit_densities(some, relative) for some in (activations, moved)]
        assert np.array_equal(*densities)
    expected = class_purity(activations, LABELS)
    assert class_purity(moved, LABELS[list(order)]) == pytest.approx(expected, nan_ok=True)


def test_the_purity_of_the_strongest_is_the_share_of_their_commonest_class():
    labels = np.array([0, 0, 1, 1, 2, 2])
    scores = np.array([[6, 5, 1, 1, 1, 1], [6, 0, 5, 0, 4, 0], [7, 7, 7, 7, 7, 7]], float).T
    counts = top_classes(scores, labels, top=2)
    assert counts.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert top_purity(counts) == 0.75, "one that does not vary is left out"
    assert top_purity(top_classes(scores[:, 1:2], labels, top=3)) == pytest.approx(1 / 3)
    assert np.isnan(top_purity(counts[2:]))
