"""Families at any L0: curves through their finals, and the bootstrap over sources and seeds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_em_studies.language import curves
from implicit_em_studies.language.curves import BEYOND, Curves, estimate, read_at

LEVELS = {"a": 0.30, "b": 0.31, "c": 0.28}
PLACES = [16, 32]


def explained(sums):
    """One minus the FVU; the quantities are squared errors and squares."""
    return 1 - sums[..., 0] / sums[..., 1]


def points(levels=LEVELS, seeds=3, sources=40, spread=0.1, of_seeds=0.0, rng=0):
    """Errors and squares of families that end at the places; a source is as hard for all."""
    rng = np.random.default_rng(rng)
    squares_N = rng.gamma(4, size=sources)
    hard_N = rng.normal(0, spread, sources)
    return pd.DataFrame(
        [
            {"family": family, "seed": seed, "l0": float(l0)}
            | {"sums": np.stack([squares_N * (level + shift + own_N + hard_N), squares_N], 1)}
            for family, level in levels.items()
            for own_N in [rng.normal(0, spread / 5, sources)]
            for seed, shift in enumerate(rng.normal(0, of_seeds, seeds), start=1)
            for l0 in PLACES
        ]
    )


def made(at, resamples=199, places=PLACES, **options):
    return Curves.of(at, explained, places, resamples, **options)


def test_it_is_that_of_seeds_and_sources_drawn_one_by_one():
    seeds, sources, resamples = 3, 9, 60
    at = points(seeds=seeds, sources=sources, of_seeds=0.02)
    found = made(at, resamples)
    of_sources, of_seeds = np.random.default_rng(0), np.random.default_rng([0, seeds])
    of_sources.multinomial(sources, np.full(sources, 1 / sources))  # the row of the data
    at_16 = at[at["l0"] == 16]
    for resample in range(resamples):
        counts = of_sources.multinomial(sources, np.full(sources, 1 / sources))
        drawn = np.repeat(np.arange(sources), counts)
        runs = np.repeat([0, 1, 2], of_seeds.multinomial(seeds, np.full(seeds, 1 / seeds)))
        means = {}
        for family, own in at_16.groupby("family"):
            totals = [sum(own["sums"].iloc[run][source] for source in drawn) for run in runs]
            means[family] = np.mean([explained(total) for total in totals])
            assert found.mean(family, 16)[1 + resample] == pytest.approx(means[family])
        assert found.lead("b", "a", 16)[1 + resample] == pytest.approx(means["b"] - means["a"])
    values = [explained(sums.sum(0)) for sums in at_16.loc[at_16["family"] == "a", "sums"]]
    assert found.mean("a", 16)[0] == pytest.approx(np.mean(values)), "row 0 is of the data"


def test_blocks_of_draws_change_nothing(monkeypatch):
    whole = made(points())
    monkeypatch.setattr(curves, "SOURCES_AT_ONCE", 40 * 7)
    assert made(points()).mean("a", 16) == pytest.approx(whole.mean("a", 16), rel=1e-12)
    assert (made(points(), seed=1).mean("a", 16) != whole.mean("a", 16))[1:].all()


def test_families_that_are_alike_are_level_and_what_sources_share_cancels():
    at = points({"a": 0.3, "b": 0.3}, spread=0.5)
    sums = list(at.loc[at["family"] == "a", "sums"])
    at["sums"] = sums + [np.nextafter(run, np.inf) for run in sums]
    assert (made(at).lead("b", "a", 32) == 0).all(), "apart by rounding"
    at["sums"] = sums + [np.c_[run[:, 0] + 0.01 * run[:, 1], run[:, 1]] for run in sums]
    lead, mean = estimate(made(at).lead("b", "a", 32)), estimate(made(at).mean("b", 32))
    assert (lead.value, lead.low, lead.high) == pytest.approx((-0.01, -0.01, -0.01))
    assert mean.high - mean.low > 0.1


def test_three_seeds_alone_give_the_interval_from_the_lowest_to_the_highest():
    at = points({"a": 0.3, "b": 0.3}, spread=0, of_seeds=0.1)
    values = at.assign(value=[explained(sums.sum(0)) for sums in at["sums"]])
    values = values[values["l0"] == 16].pivot(index="seed", columns="family", values="value")
    ahead = values["b"] - values["a"]
    lead = estimate(made(at, 10_000).lead("b", "a", 16))
    assert (lead.low, lead.high) == pytest.approx((ahead.min(), ahead.max()))


def test_a_family_of_fewer_seeds_is_compared_over_those_that_both_have():
    at = points(of_seeds=0.05)
    at["sums"] = at["sums"].where((at["family"] != "b") | (at["seed"] != 2), None)
    some, full = made(at), made(at[at["seed"] != 2])
    assert (some.seeds("b", 16), some.seeds("a", 16)) == (2, 3)
    assert (some.lead("b", "a", 16) == full.lead("b", "a", 16)).all()
    without = made(at[(at["family"] != "a") | (at["seed"] == 2)])
    assert without.lead("b", "a", 16) is None, "no seed in common"
    assert without.lead("b", "none", 16) is None
    assert without.mean("none", 16) is None


def test_a_run_whose_measure_is_not_finite_is_left_out(caplog):
    at = points()
    at["sums"][4][7, 0] = np.nan
    found = made(at)
    assert (found.seeds("a", 16), found.seeds("a", 32)) == (2, 2), "one point makes no curve"
    assert "not finite in some resample: a, seed 3, L0 16.0" in caplog.text


def test_a_family_is_read_at_an_l0_that_its_runs_miss():
    at = points({"a": 0.3, "b": 0.3}, spread=0)
    at.loc[at["family"] == "b", "l0"] *= 1.1
    at["sums"] = [
        np.c_[sums[:, 1] * (1 - 0.1 * np.log(l0)), sums[:, 1]]
        for sums, l0 in zip(at["sums"], at["l0"], strict=True)
    ]
    found = made(at)
    for place in PLACES:
        assert found.mean("b", place) == pytest.approx(0.1 * np.log(place))
        assert found.lead("b", "a", place) == pytest.approx(0, abs=1e-12)


@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=4))
def test_a_curve_goes_through_its_points_and_is_monotone_where_they_are(steps):
    l0_C, values_RC = np.array([15.0, 33, 60, 131]), np.cumsum(steps)[None]
    assert read_at(l0_C, values_RC, l0_C) == pytest.approx(values_RC)
    places = np.geomspace(15, 131 * BEYOND, 50)
    assert (np.diff(read_at(l0_C, values_RC, places)) > -1e-9).all()
    mixed = [2, 0, 3, 1]
    assert read_at(l0_C[mixed], values_RC[:, mixed], places) == pytest.approx(
        read_at(l0_C, values_RC, places)
    )


def test_past_its_ends_a_curve_is_straight_and_then_ends():
    l0_C = np.array([16.0, 32, 64])
    line_RC = np.log(l0_C)[None] * [[1.0], [-2.0]]
    near = [16 / BEYOND, 64 * BEYOND]
    assert read_at(l0_C, line_RC, near) == pytest.approx(np.log(near) * [[1.0], [-2.0]])
    assert np.isnan(read_at(l0_C, line_RC, [13, 77])).all()
    for alone in ([16.0], [16.0, 16.0]):
        assert np.isnan(read_at(np.array(alone), np.ones((1, len(alone))), [16])).all()


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say():
    rng, repetitions, held = np.random.default_rng(1), 300, np.zeros(2)
    for _ in range(repetitions):
        at = points({"a": 0.3, "b": 0.3}, seeds=1, sources=100, rng=rng)
        found = made(at, 400, [16, 32])
        mean, lead = estimate(found.mean("a", 16)), estimate(found.lead("b", "a", 16))
        held += (mean.low <= 0.7 <= mean.high), (lead.low <= 0 <= lead.high)
    assert held / repetitions == pytest.approx([0.95, 0.95], abs=0.035)
