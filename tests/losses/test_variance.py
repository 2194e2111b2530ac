import math

import numpy as np
import pytest
import torch
from helpers.draws import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from implicit_em.losses import variance


@pytest.mark.parametrize("options", [{}, {"eps": 0.5}])
def test_is_minus_the_summed_log_of_the_unbiased_variances(options):
    energies = draw(9, 5)
    expected = 0.0
    for unit in energies.numpy().T:
        squares = sum((value - unit.mean()) ** 2 for value in unit)
        expected -= math.log(squares / (len(unit) - 1) + options.get("eps", 1e-6))
    assert variance(energies, **options).item() == pytest.approx(expected, rel=1e-13)


def test_a_constant_unit_costs_minus_log_eps():
    varying = draw(9, 4)
    constant = torch.full((9, 1), 3.0, dtype=torch.float64)
    cost = variance(torch.cat([varying, constant], 1)) - variance(varying)
    assert cost.item() == pytest.approx(-math.log(1e-6))
    assert variance(torch.zeros(9, 64)).item() == pytest.approx(-64 * math.log(1e-6))


def test_a_constant_unit_has_a_finite_gradient():
    energies = torch.zeros(9, 4, dtype=torch.float64, requires_grad=True)
    variance(energies).backward()
    assert_close(energies.grad, torch.zeros_like(energies))


@pytest.mark.filterwarnings(r"ignore:var\(\). degrees of freedom is <= 0:UserWarning")
def test_one_sample_has_no_variance():
    assert variance(draw(1, 4)).isnan()


@settings(max_examples=50)
@given(scale=st.floats(0.1, 1e6), shift=st.floats(-100, 100), seed=st.integers(0, 99))
def test_growing_energies_are_rewarded_without_end_and_shifts_do_not_matter(scale, shift, seed):
    energies = draw(9, 5, seed=seed)
    change = variance(scale * energies + shift, eps=0) - variance(energies, eps=0)
    assert change.item() == pytest.approx(-5 * 2 * math.log(scale), abs=1e-6)


@pytest.mark.parametrize(("size", "dtype"), [(1e4, torch.float32), (1e30, torch.float64)])
def test_huge_energies_stay_finite(size, dtype):
    energies = (draw(9, 5) * size).to(dtype)
    expected = -np.log(energies.double().numpy().var(0, ddof=1)).sum()
    assert variance(energies).item() == pytest.approx(expected, rel=1e-6)
