"""What the page on the theory states, in float64: the identities that no other test holds."""

import math
from itertools import product

import pytest
import torch
from helpers.draws import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear, normalize
from torch.testing import assert_close

from implicit_em.losses import decorrelation, lse, mse, slab, variance
from implicit_em.models import SpikeSlab

WIDTH, UNITS, SAMPLES = 5, 4, 7
seeds = st.integers(0, 10**6)
few = settings(max_examples=10, deadline=None)


def covariance(energies):
    return torch.cov(energies.T)


@few
@given(seed=seeds)
def test_a_square_linear_layer_has_its_log_determinant_in_the_covariance_of_its_energies(seed):
    """ICA's ``-log |det W|`` is ``-log det Cov(W x) / 2``, up to a constant of the samples."""
    x, rows = draw(40, 4, seed=seed), draw(4, 4, seed=seed + 1)
    differences = [
        -torch.linalg.slogdet(covariance(linear(x, w)))[1] / 2 + torch.linalg.slogdet(w)[1]
        for w in (rows, draw(4, 4, seed=seed + 2))
    ]
    assert_close(*differences)


@pytest.mark.parametrize("seed", range(3))
def test_the_log_determinant_asks_for_half_as_much_decorrelation_as_variance(seed):
    """``-log det Cov / 2 = L_var / 2 + L_tc / 4``, up to third powers of correlations."""
    symmetric = draw(4, 4, seed=seed)
    symmetric = (symmetric + symmetric.T).fill_diagonal_(0) / symmetric.abs().max()
    scales = draw(4, seed=seed + 1).exp()
    errors = []
    for size in (0.02, 0.01):
        target = (torch.eye(4, dtype=torch.float64) + size * symmetric) * scales.outer(scales)
        white = draw(9, 4, seed=seed)
        white -= white.mean(0)
        white = white @ torch.linalg.inv(torch.linalg.cholesky(covariance(white))).T
        energies = white @ torch.linalg.cholesky(target).T
        volume = -torch.linalg.slogdet(covariance(energies))[1] / 2
        errors.append(volume - variance(energies, eps=0) / 2 - decorrelation(energies) / 4)
    assert errors[0].abs() < (2 * 0.02) ** 3 * 4
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.2), "the error is of the third order"


def test_the_likelihood_of_a_mixture_of_gaussians_with_free_variances_has_no_upper_bound():
    """One component on a sample, the other on all: the log-determinant is what lets it grow."""
    x = draw(20, 3)

    def likelihood(deviation):
        at = torch.distributions.Normal(x[0], deviation).log_prob(x).sum(1)
        wide = torch.distributions.Normal(x.mean(0), x.std(0)).log_prob(x).sum(1)
        return torch.logaddexp(at, wide).sum() - len(x) * math.log(2)

    grown = torch.stack([likelihood(10.0**-power) for power in range(3, 10)])
    assert_close(grown.diff(), torch.full((6,), 3 * math.log(10), dtype=torch.float64))


def test_the_objective_is_invariant_and_the_path_of_sgd_is_not():
    """All energies of ``(x A, W A^-1)`` are those of ``(x, W)``, until the first step."""
    x, rows, change = draw(30, 4), draw(3, 4, seed=1), draw(4, 4, seed=2)
    after = []
    for samples, start in ((x, rows), (x @ change.T, rows @ torch.linalg.inv(change))):
        w = start.clone().requires_grad_()
        energies = linear(samples, w).relu()
        (lse(energies) + variance(energies) + decorrelation(energies)).backward()
        assert_close(energies, linear(x, rows).relu())
        after.append(linear(samples, (w - 1e-3 * w.grad).detach()))
    assert (after[0] - after[1]).abs().max() > 1e-3


def test_one_gradient_step_is_that_of_em_and_a_second_one_with_the_same_responsibilities_is_not():
    """Fisher's identity holds at the parameters that the responsibilities were computed at."""
    x, rows = draw(30, 4), draw(3, 4, seed=1)
    r_BK = (-linear(x, rows)).softmax(1)

    def slopes(at):
        w = at.clone().requires_grad_()
        held = torch.autograd.grad((r_BK * linear(x, w)).sum(), w)[0]
        return held, torch.autograd.grad(lse(linear(x, w)), w)[0]

    held, free = slopes(rows)
    assert_close(held, free)
    held, free = slopes(rows - 0.01 * free)
    assert (held - free).norm() > 1e-2 * free.norm()


def unit_model(seed, units=UNITS, **options):
    """A model with rows of length 1, random biases and a random middle."""
    options = {"scaled": False, "temperature": 0.15, "log_odds": 5.0} | options
    model = SpikeSlab(WIDTH, units, **options).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed + number) * 0.5)
        model.weight.copy_(normalize(model.weight, dim=1))
    return model


def variational(model, x, r_BK):
    """``E_q |x - m - sum_j s_j c_j w_j|^2 / 2``, summed over all states of the units.

    In q, units are on independently with the probabilities r, and ``c = a``.
    """
    a, total = model.pre_activations(x).relu(), 0.0
    for states in product((0.0, 1.0), repeat=len(model.weight)):
        states = torch.tensor(states, dtype=torch.float64)
        chance = (states * r_BK + (1 - states) * (1 - r_BK)).prod(-1)
        residual = x - model.decoder.bias - (states * a) @ model.weight
        total += chance * residual.square().sum(-1) / 2
    return total.mean()


def tangential(grad, rows):
    return grad - (grad * rows).sum(1, keepdim=True) * rows


@few
@given(seed=seeds)
def test_the_step_is_the_tangential_gradient_of_a_variational_free_energy(seed):
    """Of ``p(x | s, c) = N(m + sum_j s_j c_j w_j, T I)``, where r is held; also with the gate."""
    model, x = unit_model(seed), draw(SAMPLES, WIDTH, seed=seed + 99)
    r_BK = model.responsibilities(x).detach()
    outputs = model.training_outputs(x)
    terms = mse(outputs["reconstruction"], x) + slab(outputs["slab"], outputs["decoder"])
    parameters = [model.weight, model.encoder.linear.bias, model.decoder.bias]
    of_step = torch.autograd.grad(terms * WIDTH / 2, parameters)
    of_energy = torch.autograd.grad(variational(model, x, r_BK), parameters)
    rows = model.weight.detach()
    assert_close(tangential(of_step[0], rows), tangential(of_energy[0], rows))
    assert_close(of_step[1:], of_energy[1:])


@few
@given(seed=seeds)
def test_the_e_step_updates_each_unit_as_if_all_units_were_off(seed):
    """For the sigmoid, without biases: what makes the free energy least in r_j and c_j."""
    model = unit_model(seed)
    torch.nn.init.zeros_(model.encoder.linear.bias)
    x, (temperature,), odds = draw(1, WIDTH, seed=seed + 9), model.temperature, model.log_odds
    with torch.no_grad():
        r_K = torch.sigmoid(-model.energies(x)[0] / temperature)
        centred = x[0] - model.decoder.bias

        def free(unit, r, c):
            off, on = (
                (centred - s * c * model.weight[unit]).square().sum() / (2 * temperature)
                for s in (0, 1)
            )
            expected = (1 - r) * off + r * (on + odds)  # up to a constant of the prior
            return expected + torch.special.xlogy(r, r) + torch.special.xlogy(1 - r, 1 - r)

        a_K = model.pre_activations(x)[0].relu()
        for unit in range(UNITS):
            least = free(unit, r_K[unit], a_K[unit])
            for r in torch.linspace(0, 1, 21, dtype=torch.float64):
                for c in (a_K[unit] * 0.9, a_K[unit], a_K[unit] + 0.1):
                    assert least <= free(unit, r, c) + 1e-9


def test_the_e_step_is_no_sweep_and_may_raise_the_free_energy():
    """Two equal rows that fit a sample are both switched on, and explain it twice."""
    model = SpikeSlab(2, 2, scaled=False, temperature=0.01, log_odds=5.0).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        model.encoder.linear.bias.zero_()
        model.decoder.bias.zero_()
    x = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert_close(model.responsibilities(x), torch.ones(1, 2, dtype=torch.float64))
    assert variational(model, x, one).item() == pytest.approx(0, abs=1e-12)
    assert variational(model, x, torch.ones_like(one)).item() == pytest.approx(2.0)


@pytest.mark.parametrize("seed", range(3))
def test_unit_rows_of_an_overcomplete_model_leave_no_density(seed):
    """``exp(-F / T)`` grows along directions in which the squared activations exceed 1."""
    model = unit_model(seed, units=8 * WIDTH)
    x = normalize(draw(200, WIDTH, seed=seed), dim=1)
    with torch.no_grad():
        excess = linear(x, model.weight).relu().square().sum(1)
        far = [model.free_energy(model.decoder.bias + length * x) for length in (1e3, 2e3)]
    assert (excess > 1).double().mean() > 0.95, "almost everywhere"
    assert ((far[1] - far[0] < 0) == (excess > 1)).all()


@few
@given(seed=seeds, units=st.integers(1, 6), temperature=st.floats(0.01, 3.0))
def test_linear_units_that_are_always_on_do_probabilistic_pca(seed, units, temperature):
    """J is least at ``W^T W = sum_i (1 - T / s_i)_+ u_i u_i^T`` over the K largest s_i."""
    mixing = draw(WIDTH, WIDTH, seed=seed)
    sigma = mixing @ mixing.T

    def loss(rows):
        left = torch.eye(WIDTH, dtype=torch.float64) - rows.T @ rows
        return torch.trace(left @ sigma @ left) / 2 + temperature * rows.square().sum()

    values, vectors = torch.linalg.eigh(sigma)
    lengths = (1 - temperature / values).clamp(min=0).sqrt()
    best = (vectors * lengths).T.flip(0)[:units]
    least = loss(best)
    for number in range(20):
        near = best + draw(len(best), WIDTH, seed=seed + number) * 10.0 ** -(number % 4)
        assert loss(near) >= least - 1e-9
        assert loss(draw(units, WIDTH, seed=seed + number)) >= least - 1e-9
    kept = values.flip(0)[:units].clamp(min=temperature)
    bound = torch.trace(sigma) / 2 - ((kept - temperature).square() / (2 * kept)).sum()
    assert_close(least, bound)
