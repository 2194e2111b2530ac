"""What the page on the theory states, in float64: the identities that no other test holds."""

import pytest
import torch
from helpers.draws import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear
from torch.testing import assert_close

from implicit_em.losses import decorrelation, lse, variance

WIDTH = 5
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
