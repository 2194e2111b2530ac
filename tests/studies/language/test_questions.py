"""Targets: what is tested at several L0, what is corrected, and the verdicts."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from implicit_em.config import CONF
from implicit_em_studies.language.protocol import LanguageProtocol
from implicit_em_studies.language.questions import above, partial_conjunction
from implicit_em_studies.language.results import LanguageResults
from implicit_em_studies.shared.pairs import corrected
from implicit_em_studies.shared.targets import Target

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(p_values)
def test_the_partial_conjunction_has_its_two_limits(values):
    n = len(values)
    assert partial_conjunction(values, n) == max(values), "all places hold"
    assert partial_conjunction(values, 1) == min(1, n * min(values)), "any place holds: Bonferroni"
    assert partial_conjunction(values, n + 1) == 1


def test_the_partial_conjunction_errs_as_seldom_as_it_says():
    """Two of four places hold clearly; the claim of three is rejected in few trials."""
    rng = np.random.default_rng(0)
    false = [partial_conjunction([0, 0, *rng.uniform(size=2)], 3) for _ in range(4000)]
    assert np.mean(np.array(false) < 0.05) == pytest.approx(0.05, abs=0.012)
    dependent = [partial_conjunction([0, 0, u, u], 3) for u in rng.uniform(size=4000)]
    assert np.mean(np.array(dependent) < 0.05) < 0.05


@given(p_values, st.integers(0, 20))
def test_hypotheses_of_other_reports_make_no_p_value_smaller(values, others):
    own = corrected(pd.Series(values))
    beside = corrected(pd.Series(values), len(values) + others)
    assert (beside >= own).all()
    together = corrected(pd.Series([*values, *[1.0] * others]))[: len(values)]
    assert list(together) == pytest.approx(list(beside))


def test_a_one_sided_p_value_agrees_with_the_interval():
    lead_R = np.random.default_rng(0).normal(size=999)
    for bound in np.quantile(lead_R, [0.01, 0.02, 0.03, 0.5]):
        low = np.quantile(lead_R, 0.025)
        assert (above(lead_R, bound) < 0.025) == (low > bound)
    assert above(lead_R, -9) == 1 / 1000, "the data count, too"


def test_a_target_has_one_bound():
    about = {"of": ["topk"], "over": "l1", "by": "kl", "places": {"minilm": 1}}
    assert Target(**about, below=1.1).bound == pytest.approx(-np.log(1.1))
    assert Target(**about, above=-0.5).bound == -0.005
    for both in ({}, {"above": 0, "below": 1}):
        with pytest.raises(ValidationError, match="must have one of above, below"):
            Target(**about, **both)


LOST = {"spike_slab": 10.0, "tied_topk": 10.0, "topk": 9.0, "topk_half": 10.01}
"""Squared errors of made-up families, in hundredths of the variance, and their losses inside."""


def results(part, lacking=(), changes=(), learning=None, **better):
    """Made-up finals; a family may be better than LOST says, by so many hundredths at each L0.

    ``lacking`` is a family whose first seed is not there.
    """
    protocol = LanguageProtocol.read(CONF, ["resamples=9999", *changes])
    rows = [
        {"family": family, "target": l0, "seed": seed, "active": [l0, 2 * l0], "tokens": [1, 2]}
        | {name: [share, 2 * share] for name in ("ridge", "own", "spliced", "divergence")}
        for family, lost in LOST.items()
        for l0, points in zip((16, 32, 64, 128), better.get(family, [0] * 4), strict=True)
        for share in [(lost - points) / 100]
        for seed in protocol.seeds_for(family)[1 if family in lacking else 0 :]
    ]
    finals = pd.DataFrame(rows)
    finals["variance"] = finals["predicted"] = [[1.0, 2.0]] * len(rows)
    finals["clean"], finals["zero"] = [[[0.0, 0.0]] * len(rows), [[1.0, 2.0]] * len(rows)]
    if not protocol.parts[part]["causal"]:
        finals = finals.drop(columns=["spliced", "divergence", "clean", "zero", "predicted"])
    empty = pd.DataFrame()
    more = empty, empty, learning or {}, empty, empty, "", {}, 1
    return LanguageResults(protocol, "", empty, empty, finals, empty, part, *more)


def verdicts(*args, **options):
    return results(*args, **options).verdicts.set_index("statement")


BY_OWN = "{} over {}: Variance explained by the family's own decoder"
BY_KL = "{} over {}: KL divergence inside the model"


def test_a_target_is_judged_by_its_corrected_p_value():
    found = verdicts("smollm2")
    half = found[found.index == BY_OWN.format("spike and slab", "TopK of half the units")]
    assert list(half["verdict"]) == ["met", "yes"], "no worse, and ahead by 0.01"
    assert half["target"].iloc[0] == "lead above -0.5 points, at 3 of 4 L0 (16, 32, 64, 128)"
    assert half["measured"].iloc[0].startswith("corrected p = 0.0")
    assert half["measured"].iloc[0].endswith("128: 0.01 [0.01, 0.01]")
    at_as_many = found.loc[BY_OWN.format("tied TopK", "TopK")]
    assert (at_as_many["verdict"], at_as_many["required"]) == ("no", False)
    kl = found.loc[BY_KL.format("tied TopK", "TopK")]
    assert "16: 1.111 [1.111, 1.111]" in kl["measured"], "a ratio"
    assert kl["verdict"] == "no", "more than 1.1"


def test_a_target_may_be_missed_at_one_l0_and_not_at_two():
    name = BY_OWN.format("tied TopK", "TopK of half the units")
    for worse, verdict in (([9, 0, 0, 0], "met"), ([9, 0, 9, 0], "missed")):
        assert verdicts("smollm2", topk_half=worse).loc[name, "verdict"].iloc[0] == verdict


def test_what_gives_no_verdict_does_not_count():
    found = verdicts("minilm", topk_half=[0, 9, 0, 0]).loc[
        BY_OWN.format("tied TopK", "TopK of half the units")
    ]
    assert found["verdict"].iloc[0] == "met", "at two of three"
    assert "128" not in found["measured"].iloc[0]
    found = verdicts("minilm", topk_half=[0, 9, 9, 0])["verdict"]
    assert found.iloc[0] == "missed", "at 128 and 16 alone"
    assert not any("inside the model" in name for name in found.index), "it has no losses"


def test_a_lead_that_lacks_a_seed_does_not_hold():
    found = verdicts("smollm2", lacking=["tied_topk"])["verdict"]
    assert found[BY_OWN.format("tied TopK", "TopK of half the units")].iloc[0] == "missed"
    assert found[BY_OWN.format("spike and slab", "TopK of half the units")].iloc[0] == "met"


def test_dominance_counts_l0_where_the_interval_is_above_0():
    found = results("smollm2", topk_half=[5, 0, 0, 5]).dominance
    assert found.loc["topk_half", "topk"] == 2
    assert found.loc["topk", "topk_half"] == 2
    assert found.loc["tied_topk", "spike_slab"] == 0, "level"
    assert (np.diag(found) == 0).all()
    assert results("minilm", topk_half=[5, 0, 0, 5]).dominance.loc["topk_half", "topk"] == 1


def test_who_is_overtaken_after_more_tokens():
    few, many = (results("smollm2", topk=[0, points, 0, 0]).finals for points in (-2, 3))
    learning = {tokens: rows[rows["target"] == 32] for tokens, rows in ((10, few), (20, many))}
    found = results("smollm2", learning=learning)
    assert found.courses["topk"]["spike_slab"] == [
        "ahead (1.00 [1.00, 1.00])",
        "behind (-4.00 [-4.00, -4.00])",
    ]
    assert found.courses["topk_half"]["topk"][1].startswith("ahead")
    assert (
        found.courses["topk_half"]["spike_slab"][0] == found.courses["topk_half"]["spike_slab"][1]
    )


def test_families_that_were_left_out_are_not_asked_about():
    found = verdicts("minilm", changes=["families=[topk,topk_half,tied_topk]", "permuted=[]"])
    assert {name.partition(" over")[0] for name in found.index} == {"tied TopK"}
