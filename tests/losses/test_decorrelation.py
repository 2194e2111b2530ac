import math

import numpy as np
import pytest
import torch
from helpers.draws import draw
from helpers.shapes import Shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.testing import assert_close

from implicit_em.losses import decorrelation


def gradient(energies):
    leaf = energies.clone().requires_grad_()
    decorrelation(leaf).sum().backward()
    return leaf.grad


def test_by_hand_identical_or_opposite_units_cost_two_a_pair_and_uncorrelated_ones_nothing():
    both = draw(9, 1) * torch.tensor([1, -1, 1])
    assert decorrelation(both).item() == pytest.approx(6)
    energies = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert decorrelation(energies).item() == 0


@pytest.mark.parametrize(("samples", "components", "level"), [(9, 4, 0.0), (5, 20, 1.0)])
def test_a_dead_unit_adds_nothing_and_gets_no_gradient(samples, components, level):
    alive = draw(samples, components)
    energies = torch.cat([alive, torch.full((samples, 1), level, dtype=torch.float64)], 1)
    assert_close(decorrelation(energies), decorrelation(alive))
    assert_close(unbiased(energies), unbiased(alive))
    found = gradient(energies)
    assert_close(found[:, :components], gradient(alive))
    assert (found[:, components] == 0).all()


@pytest.mark.parametrize("samples", [2, 3, 7, 96, 128, 2000])
@pytest.mark.parametrize("value", [0.1, 1.7, 777.7, -1e-5, 3e6])
def test_a_constant_unit_is_dead_in_float32(value, samples):
    # The mean of a constant is rounded, so that its centred values are not all zero.
    alive = draw(samples, 4, dtype=torch.float32)
    constant = torch.full((samples, 1), value)
    both = torch.cat([alive, constant], 1)
    assert_close(decorrelation(both), decorrelation(alive))
    found = gradient(both)
    assert (found[:, 4] == 0).all()
    assert found.isfinite().all()


def test_a_weak_unit_is_not_dead():
    energies = draw(9, 4, dtype=torch.float32)
    weak = energies * torch.tensor([1.0, 1.0, 1.0, 1e-12])
    assert_close(decorrelation(weak), decorrelation(energies))


@settings(max_examples=50)
@given(
    scale=arrays(np.float64, 5, elements=st.floats(1e-3, 1e3)),
    sign=arrays(np.float64, 5, elements=st.sampled_from([-1.0, 1.0])),
    shift=arrays(np.float64, 5, elements=st.floats(-100, 100)),
    seed=st.integers(0, 99),
)
def test_scale_sign_and_shift_of_a_unit_do_not_matter(scale, sign, shift, seed):
    energies = draw(9, 5, seed=seed)
    moved = energies * torch.from_numpy(sign * scale) + torch.from_numpy(shift)
    assert_close(decorrelation(moved), decorrelation(energies), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("samples", [draw(1, 4), draw(9, 4) * 0], ids=["one sample", "dead"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_of_one_and_a_dead_layer_cost_nothing(samples, dtype):
    energies = samples.to(dtype)
    assert decorrelation(energies).item() == 0
    assert (gradient(energies) == 0).all()


def test_huge_energies_stay_finite():
    energies = draw(9, 5, dtype=torch.float32)
    assert_close(decorrelation(energies * 1e4), decorrelation(energies))


def by_definition(energies):
    """The K x K correlation matrix, under autograd, in float64."""
    standardised = energies - energies.mean(-2, keepdim=True)
    standardised = standardised / standardised.norm(dim=-2, keepdim=True)
    correlations = standardised.mT @ standardised
    off_diagonal = 1 - torch.eye(energies.shape[-1], dtype=energies.dtype)
    return (correlations * off_diagonal).square().sum((-2, -1))


@pytest.mark.parametrize("components", [1, 2, 7, 8, 9, 30])
def test_value_and_gradient_are_the_same_on_both_sides_of_the_switch(components):
    energies = draw(2, 8, components)
    leaf = energies.clone().requires_grad_()
    expected = by_definition(leaf)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    assert_close(decorrelation(energies), expected.detach())
    assert_close(gradient(energies), slope, rtol=1e-9, atol=1e-9)


def test_no_matrix_of_all_pairs_of_components_where_there_are_more_than_samples():
    samples, components = 16, 1000
    energies = draw(samples, components, dtype=torch.float32).requires_grad_()
    with Shapes() as shapes:
        decorrelation(energies).backward()
    assert max(map(math.prod, shapes.seen)) == samples * components


def unbiased(energies):
    return decorrelation(energies, unbiased=True)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (2, 3)])
def test_the_unbiased_form_is_the_mean_over_pairs_of_different_samples(shape):
    energies = draw(*shape)
    samples, components = shape
    u = ((energies - energies.mean(0)) / energies.std(0, unbiased=False)).numpy()
    expected = 0.0
    for i in range(components):
        for j in range(components):
            if i != j:
                products = np.outer(u[:, i] * u[:, j], u[:, i] * u[:, j])
                expected += (products.sum() - np.trace(products)) / (samples * (samples - 1))
    assert unbiased(energies).item() == pytest.approx(expected, rel=1e-12)


def test_independent_units_cost_about_nothing_without_bias():
    values = torch.stack([unbiased(draw(128, 64, seed=seed)) for seed in range(40)])
    biased = torch.stack([decorrelation(draw(128, 64, seed=seed)) for seed in range(40)])
    noise = 64 * 63 / 127
    assert biased.mean().item() == pytest.approx(noise, rel=0.02)
    assert abs(values.mean().item()) < 0.02 * noise


def test_a_single_sample_has_no_unbiased_form():
    with pytest.raises(ValueError, match="unbiased=True: needs at least 2 samples, not 1"):
        unbiased(draw(1, 4))


@pytest.mark.parametrize("form", [False, True])
def test_the_mean_is_the_sum_divided_by_the_number_of_components(form):
    energies = [draw(9, 7).requires_grad_() for _ in range(2)]
    for one, reduction in zip(energies, ("sum", "mean"), strict=True):
        decorrelation(one, unbiased=form, reduction=reduction).backward()
    assert_close(energies[1].grad * 7, energies[0].grad)
    both = [decorrelation(energies[0], form, reduction) for reduction in ("sum", "mean")]
    assert both[1].item() == pytest.approx(both[0].item() / 7, rel=1e-14)


def test_correlations_of_a_component_add_up_to_its_share_of_the_dimensions_at_least():
    mixed = draw(4000, 5) @ draw(5, 40, seed=1)
    with_itself = decorrelation(mixed, reduction="mean").item() + 1
    assert with_itself >= 40 / 5
    assert decorrelation(draw(4000, 40), reduction="mean").item() < 0.1


def test_another_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction=count: allowed are sum, mean"):
        decorrelation(draw(4, 3), reduction="count")
