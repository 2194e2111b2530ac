import numpy as np
import pandas as pd
import pytest

from implicit_em_studies.comparison.matching import at_density, fronts, matched, on_front, select


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


def grid(*rows):
    columns = ["family", "density", "probe_accuracy"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(
        settings=[f"knob={n}" for n in range(len(rows))], run=frame.index.astype(str)
    )


def test_the_best_probe_near_each_density_is_chosen_for_each_family():
    tuning = grid(
        ("a", 0.11, 0.90),
        ("a", 0.09, 0.91),
        ("a", 0.13, 0.99),  # beyond the reach
        ("b", 0.10, 0.80),
        ("b", 0.08, np.nan),  # diverged
        ("b", 0.20, 0.85),
    )
    chosen = select(tuning, [0.05, 0.1, 0.2, 0.5], reach=1.25, beyond=1.1)
    assert chosen[["family", "target", "run"]].values.tolist() == [
        ["a", 0.1, "1"],
        ["b", 0.1, "3"],
        ["b", 0.2, "5"],
    ]


def test_at_the_ends_a_setting_may_lie_further_out_but_hardly_further_in():
    densities = [0.041, 0.049, 0.056, 0.44, 0.48, 0.6]
    tuning = grid(*(("a", density, density) for density in densities))
    chosen = select(tuning, [0.05, 0.5], reach=1.25, beyond=1.1)
    assert chosen["density"].tolist() == [0.049, 0.6]
    alone = select(tuning, [0.05], reach=1.25, beyond=1.1)
    assert alone["density"].tolist() == [0.049], "of the only density a curve is one point"


def test_a_probe_that_decides_nothing_takes_the_first_setting():
    chosen = select(grid(("a", 0.1, 0.9), ("a", 0.1, 0.9)), [0.1], 1.2, 1.1)
    assert chosen["run"].tolist() == ["0"]


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_no_other_setting_beats(seed):
    rng = np.random.default_rng(seed)
    points = pd.DataFrame(rng.integers(1, 6, (20, 2)) / 10, columns=["density", "value"])
    points.loc[3, "value"] = np.nan

    def beaten(row):
        for other in points.itertuples():
            no_worse = other.density <= row.density and other.value >= row.value
            if no_worse and (other.density < row.density or other.value > row.value):
                return True
        return bool(np.isnan(row.value))

    front = points.index[on_front(points, "density", "value")].tolist()
    assert front == [row.Index for row in points.itertuples() if not beaten(row)]


def test_families_on_the_front_by_density():
    tuning = grid(("a", 0.05, 0.8), ("b", 0.055, 0.9), ("a", 0.1, 0.85), ("c", 0.3, 0.95))
    found = fronts(tuning, [0.05, 0.1, 0.3], reach=1.2)
    assert found["families"].tolist() == [("a", "b"), (), ("c",)]


def test_a_setting_on_the_front_belongs_to_the_nearest_density_alone():
    found = fronts(grid(("a", 0.242, 0.9)), [0.2, 0.3], reach=1.25)
    assert found["families"].tolist() == [("a",), ()]
    assert fronts(grid(("a", 0.26, 0.9)), [0.2, 0.3], 1.25)["families"].tolist() == [(), ("a",)]
    assert fronts(grid(("a", 0.0, 0.9)), [0.2], 1.25)["families"].tolist() == [()]
