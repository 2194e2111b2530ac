"""Forms of explicit EM against plain references in float64."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from implicit_em.losses import lse
from implicit_em_studies.theory.mixtures import (
    Fit,
    e_step,
    exact,
    free_energy,
    gradient_against_m_step,
    incremental,
    kmeans,
    m_step,
)


def samples(count=120, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(5, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return centres[torch.arange(count) % 5] + noise


def start(x_ND, units=5):
    weights_K = torch.arange(1.0, units + 1, dtype=torch.float64)
    return Fit(x_ND[:units].clone(), (weights_K / weights_K.sum()).log())


def responsibilities(x_ND, means_KD, weights_K):
    """From the densities ``pi_j N(x; mu_j, I)``."""
    distances_NK = (x_ND[:, None] - means_KD).square().sum(-1)
    densities_NK = weights_K * (-distances_NK / 2).exp()
    return densities_NK / densities_NK.sum(1, keepdim=True), densities_NK.sum(1).log()


def plain_m_step(x_ND, r_NK):
    shares_K = r_NK.mean(0)
    return r_NK.T @ x_ND / len(x_ND) / shares_K[:, None], shares_K


def test_statistics_are_those_of_the_densities():
    x_ND = samples()
    fit = start(x_ND)
    r_NK, log_N = responsibilities(x_ND, fit.means_KD, fit.log_weights_K.exp())
    found = e_step(x_ND, fit)
    assert_close(found.counts_K, r_NK.sum(0))
    assert_close(found.sums_KD, r_NK.T @ x_ND)
    assert_close(found.entropy, -torch.special.xlogy(r_NK, r_NK).sum())
    assert_close(found.lse, -(log_N + x_ND.square().sum(1) / 2).sum())


def test_a_model_gives_the_energies_of_its_mixture():
    x_ND = samples()
    fit = start(x_ND)
    model = fit.model()
    assert_close(model(x_ND.float()), fit.energies(x_ND).float(), rtol=1e-5, atol=1e-5)
    again = Fit.of(model)
    assert_close(again.means_KD, fit.means_KD, rtol=1e-6, atol=1e-6)
    assert_close(again.log_weights_K, fit.log_weights_K, rtol=1e-6, atol=1e-6)


def test_exact_em_is_the_plain_one_and_its_likelihood_never_falls(monkeypatch):
    monkeypatch.setattr(
        "implicit_em_studies.theory.mixtures.PART", 50
    )  # several parts, one of them short
    x_ND = samples()
    fit = start(x_ND)
    means_KD, weights_K = fit.means_KD, fit.log_weights_K.exp()
    before = math.inf
    for value, found in exact(x_ND, fit, 10):
        r_NK, log_N = responsibilities(x_ND, means_KD, weights_K)
        assert value == pytest.approx(-(log_N + x_ND.square().sum(1) / 2).mean().item(), rel=1e-12)
        assert value <= before + 1e-12
        before = value
        means_KD, weights_K = plain_m_step(x_ND, r_NK)
        assert_close(found.means_KD, means_KD, rtol=1e-10, atol=1e-10)
        assert_close(found.log_weights_K.exp(), weights_K, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("blocks", [2, 7, 120])
def test_incremental_em_is_the_plain_one_and_its_bound_never_falls(blocks):
    """The reference keeps the responsibilities of all samples, and fits all of them each time."""
    x_ND = samples()
    fit = start(x_ND)
    r_NK, _ = responsibilities(x_ND, fit.means_KD, fit.log_weights_K.exp())
    parts = torch.arange(len(x_ND)).split(-(-len(x_ND) // blocks))
    passes = incremental(x_ND, fit, blocks, 4)
    fit, energies = next(passes)
    bounds = list(energies)
    means_KD, weights_K = plain_m_step(x_ND, r_NK)
    assert_close(fit.means_KD, means_KD, rtol=1e-10, atol=1e-10)
    for fit, energies in passes:
        expected = []
        for rows in parts:
            r_NK[rows], _ = responsibilities(x_ND[rows], means_KD, weights_K)
            means_KD, weights_K = plain_m_step(x_ND, r_NK)
            energies_NK = -x_ND @ means_KD.T + means_KD.square().sum(1) / 2 - weights_K.log()
            free = (r_NK * energies_NK + torch.special.xlogy(r_NK, r_NK)).sum(1).mean()
            expected.append(free.item())
        np.testing.assert_allclose(energies, expected, rtol=1e-10)
        assert_close(fit.means_KD, means_KD, rtol=1e-9, atol=1e-9)
        assert_close(fit.log_weights_K.exp(), weights_K, rtol=1e-9, atol=1e-9)
        # The free energy bounds LSE from above.
        assert lse(fit.energies(x_ND), reduction="mean").item() <= energies[-1] + 1e-12
        bounds += energies
    assert all(after <= before + 1e-12 for before, after in pairwise(bounds))


def test_with_one_block_it_is_exact_em():
    x_ND = samples()
    together = zip(incremental(x_ND, start(x_ND), 1, 6), exact(x_ND, start(x_ND), 6), strict=True)
    for (found, _), (_, expected) in together:
        assert_close(found.means_KD, expected.means_KD, rtol=1e-10, atol=1e-10)
        assert_close(found.log_weights_K, expected.log_weights_K, rtol=1e-10, atol=1e-10)


def test_samples_of_float32_give_almost_the_same():
    x_ND = samples()
    double, single = (
        [fit for fit, _ in incremental(x, start(x_ND), 6, 5)][-1] for x in (x_ND, x_ND.float())
    )
    assert single.means_KD.dtype == torch.float64
    assert_close(single.means_KD, double.means_KD, rtol=1e-4, atol=1e-4)


def test_the_free_energy_is_lse_after_an_e_step():
    x_ND = samples()
    fit = start(x_ND)
    total = e_step(x_ND, fit)
    assert free_energy(total, fit) == pytest.approx(float(total.lse) / len(x_ND), rel=1e-12)


def test_a_component_that_explains_nothing_stays_where_it_is():
    x_ND = samples()
    fit = start(x_ND)
    fit.means_KD[2] = 1e6
    found = m_step(e_step(x_ND, fit), fit)
    assert (found.means_KD[2] == 1e6).all()
    assert found.log_weights_K.isfinite().all()


def test_kmeans_is_em_of_a_vanishing_variance():
    x_ND = samples()
    far = 1e4  # the variance is 1, so samples far apart have responsibilities of 0 or 1
    scaled = Fit(far * x_ND[:5], torch.full((5,), 0.2, dtype=torch.float64).log())
    centres = kmeans(x_ND, start(x_ND), passes=3)
    *_, (_, expected) = exact(far * x_ND, scaled, passes=3)
    assert_close(far * centres.means_KD, expected.means_KD, rtol=1e-10, atol=1e-6)
    assert_close(centres.log_weights_K.exp().sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("seed", range(3))
def test_a_preconditioned_gradient_step_is_an_m_step(seed):
    x_ND = samples(seed=seed)
    found = gradient_against_m_step(x_ND, start(x_ND))
    shares_K = responsibilities(x_ND, x_ND[:5], start(x_ND).log_weights_K.exp())[0].mean(0)
    assert found["error"] < 1e-12
    assert found["lowest_rate"] == pytest.approx(1 / shares_K.max().item())
    assert found["largest_rate"] == pytest.approx(1 / shares_K.min().item())
