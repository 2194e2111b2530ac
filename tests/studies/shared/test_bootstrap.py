"""Families tested by a bootstrap over seeds and documents."""

import numpy as np
import pandas as pd
import pytest

from implicit_em_studies.shared import pairs
from implicit_em_studies.shared.pairs import UndefinedError, against_by_bootstrap

LEVELS = {"a": 0.30, "b": 0.31, "c": 0.28}


def explained(sums):
    """One minus the FVU; the quantities are squared errors and squares."""
    return 1 - sums[..., 0] / sums[..., 1]


def recovered(sums):
    """The share of the loss that comes back; the quantities are losses: zero, spliced, clean."""
    return (sums[..., 0] - sums[..., 1]) / (sums[..., 0] - sums[..., 2])


def made(levels=LEVELS, seeds=3, documents=40, target="x", spread=0.1, of_seeds=0.0, rng=0):
    """Errors and squares of families; a document is as hard for one family as for another."""
    rng = np.random.default_rng(rng)
    squares_N = rng.gamma(4, size=documents)
    hard_N = rng.normal(0, spread, documents)
    return pd.DataFrame(
        [
            {"target": target, "family": family, "seed": seed}
            | {"sums": np.stack([squares_N * (level + shift + own_N + hard_N), squares_N], 1)}
            for family, level in levels.items()
            for own_N in [rng.normal(0, spread / 5, documents)]
            for seed, shift in enumerate(rng.normal(0, of_seeds, seeds), start=1)
        ]
    )


def row_of(table, family, target="x"):
    return table.set_index(["target", "family"]).loc[(target, family)]


def by_hand(at, measure, resamples, seed=0):
    """Each family's value in each resample, of documents and seeds that are drawn one by one."""
    families = {name: np.stack(list(rows["sums"])) for name, rows in at.groupby("family")}
    seeds, documents, _ = families["a"].shape
    of_documents, of_seeds = np.random.default_rng(seed), np.random.default_rng([seed, seeds])
    values = {name: [] for name in families}
    for _ in range(resamples):
        counts = of_documents.multinomial(documents, np.full(documents, 1 / documents))
        drawn = np.repeat(np.arange(documents), counts)
        counts = of_seeds.multinomial(seeds, np.full(seeds, 1 / seeds))
        runs = np.repeat(np.arange(seeds), counts)
        assert len(drawn) == documents
        assert len(runs) == seeds
        for name, sums in families.items():
            totals = [sum(sums[run, document] for document in drawn) for run in runs]
            values[name].append(np.mean([measure(total) for total in totals]))
    return {name: np.array(drawn) for name, drawn in values.items()}


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("measure", [explained, recovered])
def test_it_is_that_of_seeds_and_documents_drawn_one_by_one(measure, seeds):
    at = made(seeds=seeds, documents=9, of_seeds=0.02)
    if measure is recovered:
        at["sums"] = [np.c_[sums[:, 1] + 5, sums[:, 1], sums[:, 0]] for sums in at["sums"]]
    table, values = against_by_bootstrap(at, "a", measure, resamples=60), by_hand(at, measure, 60)
    for family in LEVELS:
        row = row_of(table, family)
        expected = np.quantile(values[family], [0.025, 0.975])
        assert (row["mean_low"], row["mean_high"]) == pytest.approx(expected)
        if family != "a":
            ahead = values[family] - values["a"]
            assert (row["low"], row["high"]) == pytest.approx(np.quantile(ahead, [0.025, 0.975]))
            least = min((ahead <= 0).sum(), (ahead >= 0).sum())
            assert row["p_value"] == pytest.approx(min(1, 2 * (1 + least) / 61))
    assert row_of(table, "a")[["low", "high", "p_value", "p_holm"]].isna().all()


def test_the_rest_is_the_table_of_pairs():
    at = pd.concat([made(target="x"), made(target=0.05, of_seeds=0.1, rng=1)])
    table = against_by_bootstrap(at, "a", explained, resamples=99)
    value = [explained(sums.sum(0)) for sums in at["sums"]]
    expected = pairs.against(at.assign(value=value), "a")
    assert [*table.columns] == [*expected.columns, "mean_low", "mean_high"]
    alike = ["target", "family", "n", "mean", "std", "pairs", "ahead", "best"]
    pd.testing.assert_frame_equal(table[alike], expected[alike])
    pd.testing.assert_series_equal(table.dtypes[expected.columns], expected.dtypes)
    for _, here in table.groupby("target"):
        p = here["p_value"].dropna().sort_values()
        assert here.loc[p.index[0], "p_holm"] == pytest.approx(min(1, 2 * p.iloc[0]))
        assert here.loc[p.index[1], "p_holm"] >= here.loc[p.index[0], "p_holm"]
    assert next(pairs.Matched(table, "a").leaders).best["family"] == "c"


def test_another_target_or_block_changes_nothing(monkeypatch):
    first, second = made(target="x"), made(target="y", rng=1)
    alone = against_by_bootstrap(first, "a", explained, resamples=50)
    monkeypatch.setattr(pairs, "DOCUMENTS_AT_ONCE", 40 * 7)
    both = against_by_bootstrap(pd.concat([second, first]), "a", explained, resamples=50)
    both = both[both["target"] == "x"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, both)
    other = against_by_bootstrap(first, "a", explained, resamples=50, seed=1)
    assert (other["mean_low"] != alone["mean_low"]).all()


def test_families_that_are_alike_are_level():
    at = made({"a": 0.3, "b": 0.3})
    sums = list(at.loc[at["family"] == "a", "sums"])
    at["sums"] = sums + sums
    row = row_of(against_by_bootstrap(at, "a", explained, resamples=199), "b")
    assert (row["ahead"], row["low"], row["high"], row["p_value"]) == (0, 0, 0, 1)
    rounded = [np.nextafter(run, np.inf) for run in sums]
    at["sums"] = sums + rounded
    row = row_of(against_by_bootstrap(at, "a", explained, resamples=199), "b")
    assert (row["low"], row["high"], row["p_value"]) == (0, 0, 1), "apart by rounding"


def test_what_documents_share_cancels():
    at = made({"a": 0.3, "b": 0.3}, spread=0.5)
    sums = list(at.loc[at["family"] == "a", "sums"])
    at["sums"] = sums + [np.c_[run[:, 0] + 0.01 * run[:, 1], run[:, 1]] for run in sums]
    row = row_of(against_by_bootstrap(at, "a", explained, resamples=199), "b")
    assert (row["low"], row["high"]) == pytest.approx((-0.01, -0.01))
    assert row["p_value"] == 2 / 200, "the least there is"
    assert row["mean_high"] - row["mean_low"] > 0.1


def test_three_seeds_alone_give_the_interval_from_the_lowest_to_the_highest():
    at = made({"a": 0.3, "b": 0.3}, spread=0, of_seeds=0.1)
    values = at.assign(value=[explained(sums.sum(0)) for sums in at["sums"]])
    values = values.pivot(index="seed", columns="family", values="value")
    ahead = values["b"] - values["a"]
    row = row_of(against_by_bootstrap(at, "a", explained), "b")
    assert (row["low"], row["high"]) == pytest.approx((ahead.min(), ahead.max()))
    assert (row["mean_low"], row["mean_high"]) == pytest.approx((values.b.min(), values.b.max()))


def test_a_family_without_a_seed_is_compared_over_the_others():
    at = made(of_seeds=0.05)
    lost = (at["family"] == "b") & (at["seed"] == 2)
    at["sums"] = at["sums"].where(~lost, None)
    some, full = (
        against_by_bootstrap(rows, "a", explained, 99) for rows in (at, at[at["seed"] != 2])
    )
    row = row_of(some, "b")
    assert (row["n"], row["pairs"]) == (2, 2)
    assert not row["best"]
    alike = ["mean", "std", "ahead", "low", "high", "p_value", "mean_low", "mean_high"]
    pd.testing.assert_series_equal(row[alike], row_of(full, "b")[alike])
    assert row_of(some, "c")["pairs"] == 3
    lacking = at.assign(sums=at["sums"].where(at["seed"] != 2, None))
    assert not against_by_bootstrap(lacking, "a", explained, resamples=9)["best"].any()
    other = (at["family"] == "c") & (at["seed"] != 2)
    without = against_by_bootstrap(at[(at["family"] != "a") & ~other], "c", explained, resamples=99)
    assert row_of(without, "b")["pairs"] == 0, "no seed in common"
    assert row_of(without, "b")[["ahead", "low", "p_value", "p_holm"]].isna().all()
    without = against_by_bootstrap(at[at["family"] != "a"], "a", explained, resamples=99)
    assert without[["ahead", "low", "p_value", "p_holm"]].isna().all(axis=None)
    assert without["mean_low"].notna().all()


def test_what_cannot_be_compared_is_refused():
    at = made()
    odd = at.assign(sums=[at["sums"][0][1:], *at["sums"][1:]])
    with pytest.raises(ValueError, match=r"\[\(39, 2\), \(40, 2\)\].*all must be \(N, Q\)"):
        against_by_bootstrap(odd, "a", explained)
    with pytest.raises(ValueError, match="N of 2 or more"):
        against_by_bootstrap(made(documents=1), "a", explained)
    with pytest.raises(ValueError, match=r"shapes \[\]"):
        against_by_bootstrap(at.assign(sums=None), "a", explained)
    at["sums"][4][7, 0] = np.nan
    with pytest.raises(UndefinedError, match="target=x, family=b, seed=2: the measure must be"):
        against_by_bootstrap(at, "a", explained, resamples=9)


@pytest.mark.slow
def test_intervals_cover_and_tests_err_as_often_as_they_say():
    levels, repetitions, rng = {"a": 0.3, "b": 0.3}, 500, np.random.default_rng(1)
    at = [made(levels, documents=100, target=n, rng=rng) for n in range(repetitions)]
    table = against_by_bootstrap(pd.concat(at), "a", explained, resamples=1000)
    covers = (table["mean_low"] <= 0.7) & (table["mean_high"] >= 0.7)
    tests = table.dropna(subset="p_value")
    assert len(tests) == repetitions
    assert covers[table["family"] == "a"].mean() == pytest.approx(0.95, abs=0.03)
    assert ((tests["low"] <= 0) & (tests["high"] >= 0)).mean() == pytest.approx(0.95, abs=0.03)
    assert (tests["p_value"] < 0.05).mean() == pytest.approx(0.05, abs=0.03)
