"""Families tested in pairs over seeds, and what is said of them."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from implicit_em_studies.shared.pairs import Matched, against, target_text

CELLS = ("wide", "narrow")
LEVELS = {"a": 0.93, "b": 0.92, "c": 0.95}


@pytest.fixture
def at():
    """Three families in two cells, five seeds; in the second cell, c has its first seed alone."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"target": cell, "family": family, "seed": seed, "value": level + rng.normal(0, 0.003)}
            for cell in CELLS
            for seed in range(1, 6)
            for family, level in LEVELS.items()
            if cell == "wide" or family != "c" or seed == 1
        ]
    )


def test_families_are_tested_against_the_reference_by_seed(at):
    table = against(at, "a").set_index(["target", "family"])
    values = at[at["target"] == "narrow"].pivot(index="seed", columns="family", values="value")
    b = table.loc[("narrow", "b")]
    assert b["n"] == 5
    assert b["mean"] == pytest.approx(values["b"].mean())
    assert b["ahead"] == pytest.approx((values["b"] - values["a"]).mean())
    expected = stats.ttest_rel(values["b"], values["a"])
    assert b["p_value"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (b["low"], b["high"]) == pytest.approx((interval.low, interval.high))
    assert table.loc[("narrow", "c"), "n"] == 1
    assert np.isnan(table.loc[("narrow", "c"), "p_value"]), "a single pair"
    assert b["p_holm"] == b["p_value"], "nothing else is tested there"
    p = table.loc["wide", "p_value"].dropna().sort_values()
    adjusted = table.loc["wide", "p_holm"].dropna()[p.index]
    assert list(adjusted) == pytest.approx([min(1, 2 * p.iloc[0]), max(2 * p.iloc[0], p.iloc[1])])
    assert table["best"].groupby("target").sum().tolist() == [1, 1]
    assert table.loc[("wide", "c"), "best"]


def test_without_the_reference_there_are_means_and_no_tests(at):
    table = against(at[at["family"] != "a"], "a")
    assert table["mean"].notna().all()
    assert table[["ahead", "p_value", "p_holm"]].isna().all(axis=None)
    assert against(at.assign(value=np.nan), "a").empty


def test_targets_keep_their_order_and_their_names(at):
    matched = Matched(against(at, "a"), "a")
    assert [leader.where for leader in matched.leaders] == ["wide", "narrow"]
    assert [leader.best["family"] for leader in matched.leaders] == ["c", "a"]
    assert matched.where(matched.better, matched.tests) == {"b": "all"}
    assert matched.where(matched.worse, matched.tests) == {"c": "wide"}


@pytest.mark.parametrize(
    ("target", "unit", "text"),
    [("wide", "%", "wide"), (0.05, "%", "5 %"), (12.8, "active units", "12.8 active units")],
)
def test_a_target_is_written_as_what_it_is(target, unit, text):
    assert target_text(target, unit) == text
