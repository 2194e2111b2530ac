"""The derived terms through a code, against those through all energies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from implicit_em.codes import Code, Pattern
from implicit_em.losses import coded, decorrelation, derived, lse, variance

TERMS = {
    "lse": (lse, {}),
    "lse, counted at a temperature": (lse, {"reduction": "count", "temperature": 0.7}),
    "lse, mean": (lse, {"reduction": "mean"}),
    "variance": (variance, {"eps": 1e-3}),
    "decorrelation": (decorrelation, {}),
    "unbiased decorrelation": (decorrelation, {"unbiased": True}),
    "decorrelation, mean": (decorrelation, {"unbiased": True, "reduction": "mean"}),
}


def energies_of(samples, units, density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(samples, units, generator=generator, dtype=torch.float64) + 0.1
    return values * (torch.rand(samples, units, generator=generator) < density)


def code_of(energies, mask=None):
    pattern = Pattern.where(energies > 0 if mask is None else mask)
    return Code(energies.flatten()[pattern.flat_N], pattern)


def assert_equal_to_dense(energies, term, mask=None, tolerance=1e-12):
    weight = torch.full((1, 1, 1), 0.3, dtype=energies.dtype)
    (expected,), dense = derived.value_and_gradient(energies[None], [term], [weight])
    code = code_of(energies, mask)
    (value,), gradient = coded.value_and_gradient(code, [term], [weight])
    assert_close(value, expected, rtol=tolerance, atol=tolerance)
    largest = max(1.0, dense.abs().max().item())
    assert_close(
        gradient / largest,
        dense[0].flatten()[code.pattern.flat_N] / largest,
        rtol=0,
        atol=tolerance,
    )


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
@settings(max_examples=40)
@given(
    st.integers(5, 40),
    st.integers(1, 60),
    st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.8, 1.0]),
    st.integers(0, 999),
)
def test_values_and_gradients_are_those_of_all_energies(term, samples, units, density, seed):
    assert_equal_to_dense(energies_of(samples, units, density, seed), term)


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize(("samples", "units"), [(40, 15), (15, 40), (16, 16)])
def test_units_that_are_silent_equal_constant_or_always_active(term, samples, units):
    energies = energies_of(samples, units, 0.2)
    energies[:, 0] = 0
    energies[:, 1] = energies[:, 2]
    energies[:, 3] = 2
    energies[:, 4] = energies_of(samples, 1, 1.0, seed=5)[:, 0]
    energies[1:, 5] = 1.5
    energies[0, 5] = 0
    energies[2] = energies_of(1, units, 1.0, seed=6)[0]  # a sample that activates all units
    assert_equal_to_dense(energies, term)


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_entries_may_be_zero(term):
    energies = energies_of(12, 20, 0.3)
    assert_equal_to_dense(energies, term, mask=torch.ones(12, 20, dtype=torch.bool))


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize(("samples", "units"), [(30, 12), (12, 30)])
def test_gradients_are_the_slopes_of_the_values(term, samples, units):
    energies = energies_of(samples, units, 0.4)
    code = code_of(energies)
    _, gradient = coded.value_and_gradient(code, [term], [torch.ones(1, dtype=torch.float64)])
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(len(code.values_N), generator=generator, dtype=torch.float64)
    ends = [
        coded.value_and_gradient(
            Code(code.values_N + step * direction, code.pattern), [term], [torch.ones(1)]
        )[0][0]
        for step in (1e-6, -1e-6)
    ]
    assert ((ends[0] - ends[1]) / 2e-6).item() == pytest.approx(
        (gradient @ direction).item(), rel=1e-6
    )


def test_blocks_of_the_gram_matrix_add_up(monkeypatch):
    for samples, units in ((40, 15), (15, 40)):
        monkeypatch.setattr(coded, "AT_A_TIME", 280)
        assert_equal_to_dense(energies_of(samples, units, 0.3), TERMS["unbiased decorrelation"])


def test_terms_of_one_sample_that_need_no_statistics():
    assert_equal_to_dense(energies_of(1, 9, 0.5), TERMS["lse"])
    assert_equal_to_dense(torch.zeros(1, 9, dtype=torch.float64), TERMS["lse"])
    with pytest.raises(ValueError, match="at least 2 samples"):
        coded.value_and_gradient(
            code_of(energies_of(1, 9, 0.5)), [TERMS["unbiased decorrelation"]], [torch.ones(1)]
        )


@pytest.mark.parametrize("always", [1.0, pytest.param(0.9, marks=pytest.mark.slow)])
def test_float32_keeps_its_digits_where_the_mean_is_a_thousand_deviations(always):
    generator = torch.Generator().manual_seed(2)
    energies = energies_of(1024, 1500, 0.02).float()
    loud = 50 + 0.05 * torch.randn(1024, 8, generator=generator)
    energies[:, :8] = loud * (torch.rand(1024, 8, generator=generator) < always)
    weight = torch.ones(1, 1, 1)
    for term in TERMS.values():
        (expected,), exact = derived.value_and_gradient(
            energies.double()[None], [term], [weight.double()]
        )
        code = code_of(energies)
        (value,), gradient = coded.value_and_gradient(code, [term], [weight])
        assert value.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-3)
        exact_N = exact[0].flatten()[code.pattern.flat_N]
        assert (gradient - exact_N).norm() < 1e-4 * exact_N.norm()


def test_huge_energies_stay_finite():
    energies = energies_of(20, 30, 0.3) * 1e6
    assert_equal_to_dense(energies, TERMS["lse"])
    energies = energies.float()
    for term in TERMS.values():
        values, gradient = coded.value_and_gradient(code_of(energies), [term], [torch.ones(1)])
        assert values[0].isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_a_sample_that_strongly_activates_all_units_stays_finite(temperature):
    energies = energies_of(6, 9, 0.3)
    energies[2] = 100 + torch.arange(9)
    assert_equal_to_dense(energies.float(), (lse, {"temperature": temperature}), tolerance=1e-5)
    assert_equal_to_dense(energies, (lse, {"temperature": temperature}))


def test_a_number_that_is_none_makes_the_value_none():
    energies = energies_of(20, 30, 0.3)
    mask = energies > 0
    energies[mask.nonzero()[0][0], mask.nonzero()[0][1]] = torch.nan
    for term in TERMS.values():
        values, _ = coded.value_and_gradient(code_of(energies, mask), [term], [torch.ones(1)])
        assert values[0].isnan().all()
