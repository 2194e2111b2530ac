import numpy as np
import pandas as pd
import pytest
from scipy import stats

from implicit_em.compare.matching import at_density, matched
from implicit_em.studies.pairs import against


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


def test_families_are_tested_against_the_reference_by_seed(finals):
    at = matched(finals, [0.1, 0.2], 1.1)
    table = against(at, "a").set_index(["target", "family"])
    values = at[at["target"] == 0.2].pivot(index="seed", columns="family", values="value")
    b = table.loc[(0.2, "b")]
    assert b["n"] == 5
    assert b["mean"] == pytest.approx(values["b"].mean())
    assert b["ahead"] == pytest.approx((values["b"] - values["a"]).mean())
    expected = stats.ttest_rel(values["b"], values["a"])
    assert b["p_value"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (b["low"], b["high"]) == pytest.approx((interval.low, interval.high))
    assert table.loc[(0.2, "c"), "n"] == 1
    assert np.isnan(table.loc[(0.2, "c"), "p_value"]), "a single pair"
    assert table.loc[(0.2, "b"), "p_holm"] == b["p_value"], "nothing else is tested there"
    assert table["best"].groupby("target").sum().tolist() == [1, 1]
    assert table.loc[(0.1, "c"), "best"]


def test_several_tests_at_a_density_are_adjusted(finals):
    table = against(matched(finals, [0.1], 1.1), "a").set_index("family")
    p = table["p_value"].dropna().sort_values()
    assert len(p) == 2
    assert table.loc[p.index[0], "p_holm"] == pytest.approx(min(1, 2 * p.iloc[0]))
    assert table.loc[p.index[1], "p_holm"] >= table.loc[p.index[0], "p_holm"]


def test_another_column_can_be_matched(finals):
    by_density = matched(finals, [0.2], 1.1)
    by_activity = matched(finals, [12.8], 1.1, along="active_units")
    pd.testing.assert_series_equal(by_density["value"], by_activity["value"])


def test_without_the_reference_there_are_means_and_no_tests(finals):
    table = against(matched(finals[finals["family"] != "a"], [0.1], 1.1), "a")
    assert table["mean"].notna().all()
    assert table[["ahead", "p_value", "p_holm"]].isna().all(axis=None)
    assert against(matched(finals, [0.9], 1.1), "a").empty
