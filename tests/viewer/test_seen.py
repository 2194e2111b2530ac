"""How tokens are written on pages, and which of them raise a unit."""

import numpy as np
import pandas as pd
import pytest
from helpers.pages import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from implicit_em.language.seen import raised_by, readable


def test_wordpiece_gets_its_spaces_back():
    vocabulary = ["[CLS]", "##ing", "read", ".", "##s", "7", "##"]
    assert readable(vocabulary, {0}) == ["[CLS]", "ing", " read", ".", "s", " 7", ""]


def test_other_vocabularies_stay():
    assert readable(HOSTILE, {0, 1}) == HOSTILE
    letters = [*" abcdefghijklmnopqrstuvwxyz", "##"]
    assert readable(letters, {}) == letters


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_tokens_that_raise_a_unit_have_the_largest_mean_over_all_their_places(seed, least):
    rng = np.random.default_rng(seed)
    dense_N = (rng.integers(0, 5, 60) * (rng.random(60) < rng.random())).astype(float)
    samples_E, tokens_N = np.flatnonzero(dense_N), rng.integers(0, 12, 60)
    counts_V = np.bincount(tokens_N, minlength=12)
    found = raised_by(dense_N[samples_E], tokens_N[samples_E], counts_V, least, 4)
    table = pd.Series(dense_N).groupby(tokens_N).agg(["mean", "size"])
    table = table[(table["size"] >= least) & (table["mean"] > 0)]
    best = table.sort_values("mean", ascending=False, kind="stable").head(4)
    assert [mean for _, mean, _ in found] == pytest.approx(best["mean"].tolist())
    for token, mean, count in found:
        assert (mean, count) == pytest.approx((table["mean"][token], table["size"][token]))
