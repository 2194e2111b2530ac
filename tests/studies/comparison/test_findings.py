"""What the tables say: other tables, other sentences."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from helpers.made_up_comparison import results
from helpers.paths import ROOT

from implicit_em_studies.shared.pairs import Matched
from implicit_em_studies.shared.tables import mean_over_seeds

COMPARED = ROOT / "docs" / "results" / "compare"


AHEAD = {"derived": 0.95, "topk": 0.94}


def said(families=None, **arguments):
    return " ".join(results(families, **arguments).findings)


@pytest.mark.parametrize(
    ("families", "options", "sentences", "unsaid"),
    [
        (
            {**AHEAD, "l1": 0.93},
            {},
            [
                r"At 5 % .* ahead of the next, TopK, by 1\.0\d \[0\.\d+, 1\.\d+\] points",
                r"\(significant, p = ",
                "better in 10, significantly worse in 0, and undecided in 0",
                r"stands at 5 of 5 densities \(5 %, .*, 50 %\): at least the required 2",
            ],
            ["active units", "its own decoder", "diverged"],
        ),
        (
            {"derived": 0.94, "topk": 0.95},
            {},
            [
                r"ahead of derived by 1\.0",
                "significantly better in 0, significantly worse in 5",
                r"Derived is significantly worse than TopK \(all\)\.",
                r"of derived stands at 0 of 5 densities: fewer than the required 2\.",
            ],
            ["derived has the best mean"],
        ),
        (
            {"derived": 0.94, "topk": 0.9401},
            {"spread": 0.01},
            [
                r"\(not significant, p = ",
                "significantly better in 0, significantly worse in 0, and undecided in 5",
            ],
            ["(significant", "Derived is significantly"],
        ),
        (AHEAD, {"seeds": [1]}, [r"by 0\.95 points \(no test\)"], ["paired tests"]),
        ({"derived": 0.94, "mine": 0.95}, {}, ["At 5 % mine has the best mean"], []),
    ],
)
def test_the_sentences_say_who_leads_by_how_much_and_whether_it_is_noise(
    families, options, sentences, unsaid
):
    text = said(families, **options)
    assert all(re.search(sentence, text) for sentence in sentences)
    assert not any(sentence in text for sentence in unsaid)


def test_families_that_a_part_adds_count_on_the_front_beside_the_reference():
    levels = {"derived": 0.93, "derived_decay": 0.95, "topk": 0.94}
    with_decay = said(families=levels, part="decay_64")
    assert "a setting of derived stands at 0 of 5 densities" in with_decay
    assert (
        "On the front of the finals' means, a setting of derived, derived with decay or SAE with "
        "LSE + var + tc + decay stands at 5 of 5 densities (5 %, 10 %, 20 %, 30 %, 50 %)."
        in with_decay
    )


def test_where_the_front_has_ended_nobody_stands():
    found = results(AHEAD)
    tuning = found.tuning[found.tuning["density"] < 0.25]
    ended = " ".join(replace(found, tuning=tuning).findings)
    assert "required 2; no family's stands at 30 %, 50 %." in ended


def test_what_is_counted_over_all_densities_is_also_said_with_all_tests_corrected():
    near = said(families={"derived": 0.94, "topk": 0.9394, "l1": 0.92}, spread=0.0005)
    counts = re.search(
        r"significantly better in (\d+), .* and undecided in (\d+); after Holm over all of them, "
        r"it is better in (\d+) and worse in 0\.",
        near,
    )
    each, undecided, over_all = map(int, counts.groups())
    assert each + undecided == 10
    assert over_all < each


def test_other_measures_are_counted_by_their_own_direction():
    found = results(families={"derived": 0.94, "topk": 0.94})
    finals = found.finals.assign(sparse_probe_1=0.5, least_squares_fvu=0.3)
    derived = finals["family"] == "derived"
    noise = 0.001 * finals["seed"] * derived
    for better in (1, -1):
        finals["sparse_probe_1"] = 0.5 + derived * better * 0.1 + noise
        finals["least_squares_fvu"] = 0.3 + derived * better * 0.1 + noise
        text = " ".join(replace(found, finals=finals).findings)
        fvu, probe = (0, 5) if better == 1 else (5, 0)
        assert f"leaves unexplained, better in {fvu} and worse in {5 - fvu} of 5;" in text
        assert f"probe of 1 unit, better in {probe} and worse in {5 - probe} of 5." in text


def test_the_best_control_is_named_with_who_is_above_it():
    text = said(AHEAD)
    assert "Of the controls, k-means (64 units, 47.0 % of them active) has the best probe" in text
    assert "93.41 %; above it are derived (20 %, 30 %, 50 %), TopK (50 %)." in text
    low = said(families={"derived": 0.93, "topk": 0.92})
    assert "93.41 %; above it is none." in low
    found = results(AHEAD)
    none = replace(found, controls=found.controls.iloc[:0])
    assert "controls" not in " ".join(none.findings)


def test_a_decoder_that_reconstructs_nothing_is_named():
    found = results(AHEAD)
    topk = found.finals["family"] == "topk"
    number = found.finals.loc[topk, "settings"].nunique()
    lost = replace(found, finals=found.finals.assign(fvu=topk * 1.2))
    text = " ".join(lost.findings)
    assert f"In {number} of {number} settings of TopK its own decoder reconstructs worse" in text


def test_what_is_not_reached_is_said():
    found = results(families={"derived": 0.95, "topk": 0.94, "l1": 0.93})
    sparse = (found.finals["family"] == "topk") & (found.finals["exact_density"] < 0.2)
    everything = found.finals["family"] == "derived"
    for lost, sentence in (
        (sparse, "TopK does not reach 5 %, 10 %, 20 %."),
        (everything, "91.51 %; derived is not compared there with all seeds."),
    ):
        text = " ".join(replace(found, finals=found.finals[~lost]).findings)
        assert sentence in text
        assert ("paired tests" in text) == (lost is sparse)


def test_families_of_other_widths_are_also_compared_by_their_active_units():
    wide = said(AHEAD, widths={"derived": 128})
    assert "At 6.4 active units derived has the best mean" in wide
    assert "At 3.2 active units" not in wide, "the wide one was not tuned for so few"
    assert wide.startswith(
        "The families differ in units, and the probe has as many inputs: 64 for TopK; "
        "128 for derived. At 6.4 active units"
    )
    assert wide.index("paired tests at equal activity") < wide.index("paired tests at equal densi")
    assert "By other measures at equal activity" in wide
    found = results(AHEAD, widths={"derived": 128})
    assert sorted(found.activity.at["target"].unique()) == pytest.approx([6.4, 12.8, 19.2, 32])
    # Where no number of active units is shared, densities alone are compared.
    found = results(AHEAD, widths={"derived": 128}, densities=[0.3, 0.5])
    assert found.activity.at.empty
    assert "active units" not in " ".join(found.findings)
    assert "matched_activity" not in found.tables


def test_the_tables_show_every_family_in_the_protocols_order():
    found = results(families={"derived": 0.94, "topk": 0.95, "l1": 0.92})
    at = found.density.at
    shown = Matched(at[at["family"] != "l1"], "derived").as_text(found.protocol.families, 5)
    assert shown["family"].tolist() == ["derived", "TopK", "L1"]
    assert list(shown)[1:] == ["5 %", "10 %", "20 %", "30 %", "50 %"]
    assert set(shown.iloc[2, 1:]) == {"–"}
    assert all(re.fullmatch(r"9\d\.\d\d ± 0\.\d\d \* \+", cell) for cell in shown.iloc[1, 1:])
    differences = Matched(at, "derived").differences(found.protocol.families)
    assert differences["family"].tolist() == ["TopK", "L1"]
    assert all(cell.startswith("+1.") for cell in differences.iloc[0, 1:])
    assert all(
        cell.startswith("-2.") or cell.startswith("-1.9") for cell in differences.iloc[1, 1:]
    )


def test_families_that_get_there_with_some_seeds_only_are_not_the_best():
    found = results(families={"derived": 0.94, "topk": 0.95})
    dense = (found.finals["family"] == "topk") & (found.finals["exact_density"] > 0.4)
    lost = dense & (found.finals["seed"] > 2)
    some = replace(found, finals=found.finals[~lost])
    said = some.findings[4]
    assert said.startswith("At 50 % derived has the best mean")
    assert said.endswith("no other family is compared there with all seeds.")
    at = some.density.at.query("target == 0.5").set_index("family")
    assert at["n"].to_dict() == {"derived": 5, "topk": 2}
    assert at["best"].to_dict() == {"derived": True, "topk": False}
    few = (found.finals["exact_density"] > 0.4) & (found.finals["seed"] > 2)
    nobody = replace(found, finals=found.finals[~few])
    assert "At 50 % no family is compared with all seeds." in nobody.findings
    none = replace(found, finals=found.finals[found.finals["exact_density"] < 0.4])
    assert "At 50 %" not in " ".join(none.findings)


def test_finals_that_diverged_are_named():
    found = results(families={"derived": 0.94, "topk": 0.95})
    lost = found.finals.iloc[[0, 1, 7]][["family", "settings", "seed"]]
    said = replace(found, lost=lost).findings[-1]
    first, second = lost["settings"].iloc[0], lost["settings"].iloc[2]
    assert said == (
        "Finals that diverged, and are left out: "
        f"derived, {first} (seed 1, 2); derived, {second} (seed 3)."
    )


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
