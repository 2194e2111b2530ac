"""What the tables say: other tables, other sentences."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from made_up_comparison import results

from implicit_em.compare.results import (
    differences_table,
    findings,
    matched_table,
    mean_over_seeds,
)


def said(**arguments):
    return " ".join(findings(results(**arguments)))


def test_the_best_family_is_named_with_how_far_it_is_ahead():
    ahead = said(families={"derived": 0.95, "topk": 0.94, "l1": 0.93})
    assert ahead.count("derived has the best mean") == 5
    assert re.search(
        r"At 5 % .* ahead of the next, TopK, by 1\.0\d \[0\.\d+, 1\.\d+\] points", ahead
    )
    assert "(significant, p = " in ahead
    assert "significantly better in 10, significantly worse in 0, and 0 decide nothing" in ahead


def test_a_reference_that_loses_is_said_to_lose():
    behind = said(families={"derived": 0.94, "topk": 0.95})
    assert behind.count("TopK has the best mean") == 5
    assert "ahead of derived by 1.0" in behind
    assert "significantly better in 0, significantly worse in 5" in behind
    assert "It is beaten by TopK (5 %, 10 %, 20 %, 30 %, 50 %)." in behind
    assert "a setting of derived stands at 0 of 5 densities: fewer than the 2 asked for" in behind


def test_what_noise_could_do_is_not_significant():
    noisy = said(families={"derived": 0.94, "topk": 0.9401}, spread=0.01)
    assert "(not significant, p = " in noisy
    assert "(significant" not in noisy


def test_the_front_is_counted():
    ahead = said(families={"derived": 0.95, "topk": 0.94})
    assert "stands at 5 of 5 densities (5 %, 10 %, 20 %, 30 %, 50 %): at least the 2" in ahead


def test_one_seed_gives_no_test():
    single = said(families={"derived": 0.95, "topk": 0.94}, seeds=[1])
    assert "by 0.95 points (no test)" in single
    assert "paired tests" not in single


def test_what_is_not_reached_is_said():
    found = results(families={"derived": 0.95, "topk": 0.94, "l1": 0.93})
    sparse = (found.finals["family"] == "topk") & (found.finals["exact_density"] < 0.2)
    everything = found.finals["family"] == "derived"
    for lost, sentence in (
        (sparse, "TopK does not reach 5 %, 10 %, 20 %."),
        (everything, "TopK has the best mean, 91.51 %; derived does not get there with all seeds."),
    ):
        some = replace(found, finals=found.finals[~lost])
        assert sentence in " ".join(findings(some))


def test_families_of_other_widths_are_also_compared_by_their_active_units():
    assert "active units" not in said(families={"derived": 0.95, "topk": 0.94})
    wide = said(families={"derived": 0.95, "topk": 0.94}, widths={"derived": 128})
    assert "At 6.4 active units derived has the best mean" in wide
    assert "At 3.2 active units" not in wide, "the wide one was not tuned for so few"


def test_the_tables_show_every_family_in_the_protocols_order():
    found = results(families={"derived": 0.94, "topk": 0.95, "l1": 0.92})
    at = found.at_density()
    shown = matched_table(at[at["family"] != "l1"], found.protocol)
    assert shown["family"].tolist() == ["derived", "TopK", "L1"]
    assert list(shown)[1:] == ["5 %", "10 %", "20 %", "30 %", "50 %"]
    assert set(shown.iloc[2, 1:]) == {"–"}
    assert all(re.fullmatch(r"9\d\.\d\d ± 0\.\d\d \* \+", cell) for cell in shown.iloc[1, 1:])
    differences = differences_table(at, found.protocol)
    assert differences["family"].tolist() == ["TopK", "L1"]
    assert all(cell.startswith("+1.") for cell in differences.iloc[0, 1:])
    assert all(
        cell.startswith("-2.") or cell.startswith("-1.9") for cell in differences.iloc[1, 1:]
    )


@pytest.mark.parametrize("family", ["topk", "mine"])
def test_a_family_is_called_by_its_name_in_print(family):
    shown = said(families={"derived": 0.94, family: 0.95})
    assert f"At 5 % {'TopK' if family == 'topk' else 'mine'} has" in shown


def test_families_that_get_there_with_some_seeds_only_are_not_the_best():
    found = results(families={"derived": 0.94, "topk": 0.95})
    dense = (found.finals["family"] == "topk") & (found.finals["exact_density"] > 0.4)
    lost = dense & (found.finals["seed"] > 2)
    some = replace(found, finals=found.finals[~lost])
    said = findings(some)[4]
    assert said.startswith("At 50 % derived has the best mean")
    assert said.endswith("no other family gets there with all seeds.")
    at = some.at_density().query("target == 0.5").set_index("family")
    assert at["n"].to_dict() == {"derived": 5, "topk": 2}
    assert at["best"].to_dict() == {"derived": True, "topk": False}
    none = replace(found, finals=found.finals[found.finals["exact_density"] < 0.4])
    assert "50 %" not in " ".join(findings(none)[:4])


def test_finals_that_diverged_are_named():
    found = results(families={"derived": 0.94, "topk": 0.95})
    lost = found.finals.iloc[[0, 1, 7]][["family", "settings", "seed"]]
    said = findings(replace(found, diverged=lost))[-1]
    first, second = lost["settings"].iloc[0], lost["settings"].iloc[2]
    assert said == (
        "Finals that diverged, and are left out: "
        f"derived, {first} (seed 1, 2); derived, {second} (seed 3)."
    )
    assert "diverged" not in " ".join(findings(found))


def test_equal_activity_is_compared_where_the_widest_family_was_tuned():
    found = results(families={"derived": 0.94, "topk": 0.95}, widths={"derived": 128})
    assert sorted(found.at_activity()["target"].unique()) == pytest.approx([6.4, 12.8, 19.2, 32])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.25, 0.35], "0.3 ± 0.071"),
        ([0.2, 0.20001], "0.2 ± 7.1e-06"),
        ([0.1 + 0.2, 0.3], "0.3"),
        ([0.0, 0.0], "0"),
        ([0.3], "0.3"),
        ([None, None], "–"),
    ],
)
def test_what_rounding_alone_makes_differ_has_no_deviation(values, text):
    frame = pd.DataFrame({"family": "topk", "settings": "k=3", "density": values})
    assert mean_over_seeds(frame, ["density"])["density"].tolist() == [text]
