import numpy as np
import pandas as pd
import pytest

from implicit_em_studies.comparison.matching import at_density, matched


def test_between_two_settings_the_value_is_linear_in_the_logarithm_of_density():
    assert at_density([0.4, 0.1], [0.96, 0.90], 0.2, 1.0) == pytest.approx(0.93)
    assert at_density([0.1, 0.4, 0.2], [0.90, 0.96, 0.80], 0.2, 1.0) == pytest.approx(0.80)


def test_past_the_ends_the_value_stands_for_as_long_as_was_said():
    curve = [0.1, 0.4], [0.90, 0.96]
    assert at_density(*curve, 0.091, 1.1) == 0.90
    assert at_density(*curve, 0.439, 1.1) == 0.96
    assert np.isnan(at_density(*curve, 0.09, 1.1))
    assert np.isnan(at_density(*curve, 0.45, 1.1))
    assert np.isnan(at_density([0.0, 0.1], [0.1, np.nan], 0.1, 1.1)), "nothing there"


def test_of_settings_of_equal_density_the_mean_counts_in_any_order():
    for values in ([0.9, 0.8, 0.7], [0.8, 0.9, 0.7]):
        assert at_density([0.1, 0.1, 0.2], values, 0.1, 1.0) == pytest.approx(0.85)


def final(family, seed, density, value):
    return {
        "family": family,
        "seed": seed,
        "exact_density": density,
        "active_units": 64 * density,
        "probe_accuracy": value,
    }


@pytest.fixture
def finals():
    """Three families at 10 to 40 %, five seeds; c has its first seed there alone."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(1, 6):
        for family, level in (("a", 0.93), ("b", 0.92), ("c", 0.95)):
            noise = rng.normal(0, 0.003)
            ends = (0.1, 0.4) if family != "c" or seed == 1 else (0.1, 0.15)
            rows += [final(family, seed, d, level + d / 10 + noise) for d in ends]
    return pd.DataFrame(rows)


def test_another_column_can_be_matched(finals):
    by_density = matched(finals, [0.2], 1.1)
    by_activity = matched(finals, [12.8], 1.1, along="active_units")
    pd.testing.assert_series_equal(by_density["value"], by_activity["value"])
