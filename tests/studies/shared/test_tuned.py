"""The families that are named, and the choice of a setting of each."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from implicit_em.config import CONF
from implicit_em_studies.comparison.study import STUDY as COMPARE
from implicit_em_studies.language.study import STUDY as LANGUAGE
from implicit_em_studies.recovery.study import STUDY as RECOVER
from implicit_em_studies.shared.study import Request
from implicit_em_studies.shared.tuned import choose


def asked(study, *words):
    """Return the protocol and the parts that a study gets for these words."""
    seen = []
    study = replace(study, prepare=lambda protocol, request, *_: seen.extend((protocol, request)))
    study.plan(Request(Path("none"), words, [], CONF, {})).prepare()
    return seen[0], seen[1].words


@pytest.mark.parametrize(
    ("study", "part", "also", "kept"),
    [
        (LANGUAGE, "minilm", lambda p: ["topk", *p.permuted], ["topk", "topk"]),
        (RECOVER, "usual", lambda p: p.toy_families, ["derived", "topk"]),
        (COMPARE, "decoder_free_64", lambda p: p.families, ["derived", "topk"]),
    ],
)
def test_a_study_trains_the_families_that_are_named_and_the_reference(study, part, also, kept):
    whole, words = asked(study, part)
    assert words == [part]
    assert "spike_slab" in whole.every_family
    some, words = asked(study, "topk", part)
    assert part in words
    assert some.every_family == list(dict.fromkeys(kept))
    assert also(some) == kept
    assert {variant["of"] for variant in some.variants.values()} <= {"topk"}


def test_parts_without_a_family_that_is_named_are_left_out():
    assert asked(RECOVER, "tied_topk")[1][-1] == "harder"
    assert asked(RECOVER, "l1")[1][-1] == "twice_the_units"
    parts = ["decoder_free_64", "decoder_free_128", "decoder_free_parameters"]
    assert asked(COMPARE, "mnist", "spike_slab")[1] == ["mnist", *parts]


def test_a_quick_trial_of_a_family_has_the_quick_parts():
    for study in (LANGUAGE, RECOVER):
        short = study.short(CONF)
        quick = [word for word in short if "=" not in word]
        protocol = study.protocol.read(CONF, list(filter(study.protocol.has, short[len(quick) :])))
        assert protocol.chosen(quick)
        assert study._shortened(CONF, ["topk"], [])[0] == ["topk", *quick]
        assert study._shortened(CONF, ["topk", quick[0]], [])[0] == ["topk", quick[0]]


def test_each_criterion_takes_each_familys_best_setting_and_none_that_diverged():
    tuning = pd.DataFrame(
        {
            "family": ["a", "a", "a", "b", "b"],
            "settings": list("pqrst"),
            "run": list("12345"),
            "pursuit_l0": [3.0, 1.0, np.nan, 5.0, 4.0],
            "found": [0.9, 0.2, np.nan, 0.1, 0.7],
        }
    )
    chosen = choose(tuning, {"blind": "-pursuit_l0", "truth": "found"})
    by = {name: list(rows["settings"]) for name, rows in chosen.groupby("criterion")}
    assert by == {"blind": ["q", "t"], "truth": ["p", "t"]}
