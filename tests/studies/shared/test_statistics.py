import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from implicit_em_studies.shared import statistics

values = st.lists(st.floats(0.1, 100), min_size=3, max_size=8, unique=True)


@given(values)
def test_the_interval_of_a_mean_holds_what_the_t_test_does_not_reject(sample):
    estimate = statistics.mean(sample)
    low, high = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert estimate.value == pytest.approx(np.mean(sample))
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    assert estimate.n == len(sample)


@given(values)
def test_a_difference_is_paired_by_index_and_tested_as_a_pair(sample):
    first = pd.Series(sample)
    second = pd.Series(np.sqrt(sample)).sample(frac=1, random_state=0)
    estimate = statistics.difference(first, second)
    pairs = first - second.sort_index()
    assert estimate.value == pytest.approx(pairs.mean())
    assert estimate.p_value == pytest.approx(stats.ttest_1samp(pairs, 0).pvalue)
    assert estimate.test == "paired t test"
    if abs(estimate.p_value - 0.05) > 1e-6:
        assert (estimate.p_value < 0.05) == (estimate.low > 0 or estimate.high < 0)


def test_pairs_without_a_partner_are_left_out():
    first, second = pd.Series([1.0, 2.0, 9.0], [1, 2, 3]), pd.Series([0.5, 1.0], [1, 2])
    assert statistics.difference(first, second).value == 0.75
    assert statistics.difference(first, second).n == 2


@given(values, st.floats(0.1, 10))
def test_a_ratio_is_geometric_and_free_of_scale(sample, factor):
    first, second = pd.Series(sample), pd.Series(sample[::-1])
    estimate = statistics.ratio(first * factor, second)
    assert estimate.value == pytest.approx(factor)  # each value once above and once below
    assert estimate.low * estimate.high == pytest.approx(factor**2)


def test_a_ratio_of_what_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="positive"):
        statistics.ratio(pd.Series([1.0, 0.0]), pd.Series([1.0, 1.0]))


def test_equal_values_have_an_interval_of_no_width_and_nothing_to_test():
    assert statistics.mean([64, 64, 64]) == statistics.Estimate(64, 64, 64, 3)
    same = pd.Series([2.0, 3.0])
    assert statistics.difference(same, same).p_value is None


def test_what_rounding_alone_tells_apart_is_not_tested():
    first, second = pd.Series([0.9345, 0.9340, 0.9330]), pd.Series([0.9321, 0.9316, 0.9306])
    assert (first - second).nunique() > 1, "as floats round"
    assert statistics.difference(first, second).p_value is None
    assert statistics.difference(first, second + pd.Series([0, 0, 1e-9])).p_value is not None


def test_the_interval_of_shares_stays_among_shares():
    estimate = statistics.mean_share([1.0, 0.98, 1.0])
    assert estimate.high == 1
    assert estimate.low == statistics.mean([1.0, 0.98, 1.0]).low
    assert statistics.mean_share([0.5]) == statistics.Estimate(0.5)


def test_a_single_value_has_no_interval():
    assert statistics.mean([1.5]) == statistics.Estimate(1.5)


def test_a_share_has_the_exact_interval():
    none = statistics.share(0, 12)
    assert none.low == 0
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 12))


def test_a_slope_is_that_of_least_squares():
    x, y = np.arange(6), np.array([0.1, 0.9, 2.1, 2.9, 4.2, 4.8])
    assert statistics.slope(x, y) == pytest.approx(np.polyfit(x, y, 1)[0])
    assert np.isnan(statistics.slope([1], [1]))


def test_an_estimate_as_text():
    estimate = statistics.Estimate(0.0312, 0.025, 0.036, 5)
    assert estimate.text(1, 100, "points") == "3.1 [2.5, 3.6] points"
    assert statistics.Estimate(50240).text(0) == "50,240"
