"""The share of the cross-entropy that a reconstruction recovers: its limits, and its units."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_em.language.metrics import ce_recovered

CLEAN, ZERO = 3.25, 10.75
losses = st.floats(0.125, 20)


def test_its_limits_are_the_model_itself_and_zeros():
    assert ce_recovered(CLEAN, ZERO, CLEAN) == 1
    assert ce_recovered(CLEAN, ZERO, ZERO) == 0
    assert ce_recovered(CLEAN, ZERO, 7) == 0.5
    assert ce_recovered(CLEAN, ZERO, 2.5) == 1.1, "better than the model itself"
    assert ce_recovered(CLEAN, ZERO, 14.5) == -0.5, "worse than zeros"


def test_it_takes_arrays_that_broadcast_and_computes_in_float64():
    clean_R, zero_R = np.float32([3, 2]), np.float32([9, 6])
    spliced_MR = np.float32([[3, 6], [6, 5], [9, 2]])
    found = ce_recovered(clean_R, zero_R, spliced_MR)
    assert found.dtype == np.float64
    assert found.tolist() == [[1, 0], [0.5, 0.25], [0, 1]]


def test_where_zeros_cost_nothing_it_is_not_a_number():
    assert np.isnan(ce_recovered([3.0, 3.0, 3.0], [3.0, 3.0, 2.5], [3.0, 4.0, 4.0])).all()


@given(losses, st.floats(0.5, 20), losses, st.floats(0.1, 10))
def test_sums_and_bits_give_what_means_and_nats_give(clean, gap, spliced, unit):
    expected = ce_recovered(clean, clean + gap, spliced)
    found = ce_recovered(unit * clean, unit * (clean + gap), unit * spliced)
    assert found == pytest.approx(expected, abs=1e-9)
