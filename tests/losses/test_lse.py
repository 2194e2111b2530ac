import math

import numpy as np
import pytest
import torch
from helpers.draws import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import softmax
from torch.testing import assert_close

from implicit_em.losses import lse, variance

BATCHES = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(-300, 300),
)


def gradient(energies):
    leaf = energies.clone().requires_grad_()
    lse(leaf).sum().backward()
    return leaf.grad


def responsibilities(energies):
    """softmax(-E) in float64."""
    return torch.from_numpy(softmax(-energies.double().numpy(), axis=1))


def test_is_minus_the_log_of_the_summed_likelihoods():
    energies = draw(7, 5)
    expected = -sum(math.log(sum(math.exp(-e) for e in row)) for row in energies.tolist())
    assert lse(energies).item() == pytest.approx(expected, rel=1e-14)


@settings(max_examples=50)
@given(BATCHES)
def test_gradient_is_the_responsibility(batch):
    energies = torch.from_numpy(batch)
    assert_close(gradient(energies), responsibilities(energies), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_gradient_of_the_papers_draw_is_the_responsibility_in_float32(seed):
    energies = draw(64, 128, seed=seed, dtype=torch.float32)
    found, expected = gradient(energies), responsibilities(energies)
    assert found.dtype == torch.float32
    assert (found.double() - expected).abs().max() <= 1e-7
    correlation = np.corrcoef(found.numpy().ravel(), expected.numpy().ravel())[0, 1]
    assert round(correlation, 4) == 1.0


@pytest.mark.parametrize("size", [1e4, -1e4, 1e30, -1e30])
def test_huge_energies_keep_value_and_gradient_finite(size):
    energies = torch.tensor([[size, size], [0.0, size]])
    assert lse(energies).item() == pytest.approx(size + min(0.0, size), rel=1e-3)
    found = gradient(energies)
    assert found.isfinite().all()
    assert found[1].tolist() == ([1.0, 0.0] if size > 0 else [0.0, 1.0])


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_a_large_shift_of_all_energies_leaves_the_gradient(shift):
    energies = draw(7, 5)
    assert_close(gradient(energies + shift), gradient(energies), rtol=1e-9, atol=0)
    assert_close(lse(energies + shift), lse(energies) + 7 * shift)


def test_the_mean_is_the_sum_over_the_batch_size_and_the_count_k_times_it():
    energies = draw(8, 5)
    assert_close(lse(energies, reduction="mean") * 8, lse(energies, reduction="sum"))
    assert_close(lse(energies), lse(energies, reduction="sum"))
    assert_close(lse(energies, "count"), 5 * lse(energies, "mean"))


def test_another_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction=median: allowed are sum, mean, count"):
        lse(draw(4, 3), reduction="median")


@settings(max_examples=50)
@given(BATCHES, st.floats(0.05, 20))
def test_a_temperature_scales_energies_and_what_comes_out(batch, temperature):
    energies = torch.from_numpy(batch).requires_grad_()
    value = lse(energies, temperature=temperature)
    assert_close(value, temperature * lse(energies.detach() / temperature))
    value.backward()
    expected = responsibilities(energies.detach() / temperature)
    assert_close(energies.grad, expected, rtol=1e-9, atol=1e-14)


def test_temperature_one_is_none_to_the_last_bit():
    energies = draw(7, 5, dtype=torch.float32)
    assert torch.equal(lse(energies), lse(energies, temperature=1))


def test_a_cold_mixture_is_the_least_energy_and_a_hot_one_the_mean():
    energies = draw(7, 5)
    assert_close(lse(energies, temperature=1e-6), energies.amin(-1).sum())
    hot = lse(energies, temperature=1e6) + 7e6 * math.log(5)
    assert_close(hot, energies.mean(-1).sum(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("temperature", [0, -1, math.inf, math.nan])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(
        ValueError, match=f"temperature={temperature}: allowed are finite numbers above 0"
    ):
        lse(draw(3, 2), temperature=temperature)


@pytest.mark.parametrize("samples", [4, 400])
@pytest.mark.parametrize("components", [256, 16_384])
def test_the_count_of_a_few_loud_units_is_their_number(components, samples):
    energies = torch.zeros(samples, components, dtype=torch.float64)
    energies[:, :3] = 50
    count = lse(energies, "count") + components * math.log(components)
    assert count.item() == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("level", [1.0, 3.0])
@pytest.mark.parametrize(("components", "samples"), [(300, 8000), (900, 4000)])
def test_the_weight_of_the_count_is_about_one_over_the_density(level, components, samples):
    """Shifting all active energies changes nothing at p = (1 + 1 / a) / weight, see the theory."""
    weight = 40.0
    density = (1 + 1 / level) / weight
    generator = torch.Generator().manual_seed(0)
    strength = torch.empty(samples, components, dtype=torch.float64)
    strength.exponential_(1 / level, generator=generator)
    active = torch.rand(samples, components, generator=generator) < density
    energies = (strength * active).requires_grad_()
    pulls = [
        (torch.autograd.grad(term, energies)[0] * active).sum().item()
        for term in (weight * lse(energies, "count"), variance(energies))
    ]
    assert pulls[0] == pytest.approx(-pulls[1], rel=0.06)
