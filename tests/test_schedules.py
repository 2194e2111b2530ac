import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_em.schedules import cosine

SHARES = st.floats(0, 1)
quick = settings(max_examples=50)


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({}, {0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1: 0}),
        ({"warmup": 0.2, "final": 0.1}, {0: 0, 0.05: 0.25, 0.1: 0.5, 0.2: 1, 0.6: 0.55, 1: 0.1}),
        ({"warmup": 1.0}, {0.999: 0.999}),
    ],
)
def test_rises_linearly_during_the_warmup_then_falls_along_half_a_cosine(options, factors):
    for progress, factor in factors.items():
        assert cosine(progress, **options) == pytest.approx(factor, abs=1e-12)


@quick
@given(first=SHARES, second=SHARES, warmup=SHARES, final=SHARES)
def test_rises_before_the_warmups_end_and_falls_after_it(first, second, warmup, final):
    early, late = sorted((first, second))
    change = cosine(late, warmup, final) - cosine(early, warmup, final)
    if late < warmup:
        assert change >= 0
    elif early >= warmup:
        assert change <= 1e-12


@quick
@given(warmup=st.floats(1e-3, 0.999), final=SHARES)
def test_is_continuous_at_the_warmups_end(warmup, final):
    before = cosine(math.nextafter(warmup, 0), warmup, final)
    assert before == pytest.approx(cosine(warmup, warmup, final))
