"""The M-step of a free layer: where it exists, and what it is."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.testing import assert_close

from implicit_em_studies.theory.free_layer import (
    DECAY,
    VARIANTS,
    WEIGHT,
    along_rows,
    decayed_row,
    moments,
    objective,
    penalised_row,
)

PENALTY, DECAYED = "linear, log variance and penalty", "linear, log variance and decay"


def samples(count=200, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(count, width, generator=generator, dtype=torch.float64)
    x_ND = x_ND @ torch.randn(width, width, generator=generator, dtype=torch.float64) + 1
    r_N = (-x_ND[:, :4]).softmax(1)[:, 0]
    return 4 * r_N, x_ND


def value(row_D, r_N, x_ND, variant):
    activation, volume, _ = VARIANTS[variant]
    z_N = (x_ND - x_ND.mean(0)) @ row_D
    return objective(r_N, z_N, row_D.square().sum(), activation, volume)


def minimised(start_D, r_N, x_ND, variant):
    """Return where BFGS, and then Newton's method, find the least value."""

    def with_gradient(row):
        row_D = torch.tensor(row, requires_grad=True)
        least = value(row_D, r_N, x_ND, variant)
        least.backward()
        return least.item(), row_D.grad.numpy()

    row_D = torch.tensor(minimize(with_gradient, start_D.numpy(), jac=True).x)
    for _ in range(5):
        of_row = lambda row: value(row, r_N, x_ND, variant)  # noqa: E731
        slope_D = torch.autograd.functional.jacobian(of_row, row_D)
        row_D = row_D - torch.linalg.solve(
            torch.autograd.functional.hessian(of_row, row_D), slope_D
        )
    return row_D


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("variant", "closed_form"), [(PENALTY, penalised_row), (DECAYED, decayed_row)]
)
def test_the_row_is_where_an_optimiser_finds_the_least_value(variant, closed_form, seed):
    r_N, x_ND = samples(seed=seed)
    row_D = closed_form(*moments(r_N, x_ND))
    least = value(row_D, r_N, x_ND, variant).item()
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(4):  # there may be other stationary points
        start_D = torch.randn(x_ND.shape[1], generator=generator, dtype=torch.float64)
        found.append(minimised(start_D, r_N, x_ND, variant))
        assert value(found[-1], r_N, x_ND, variant).item() >= least - 1e-12
    best_D = min(found, key=lambda row: value(row, r_N, x_ND, variant).item())
    assert_close(row_D, best_D, rtol=1e-10, atol=1e-10 * row_D.norm().item())


def test_the_factor_is_stationary_on_the_scalar_objective():
    """alpha solves ``-q^2 + alpha q^2 / s^2 - 2 lambda / alpha = 0``, found by the chain rule."""
    r_N, x_ND = samples()
    c_D, covariance_DD = moments(r_N, x_ND)
    explained = (c_D @ torch.linalg.solve(covariance_DD, c_D)).item()
    for scale, weight in ((1.0, 0.05), (3.0, 0.2), (0.1, 1.0)):
        row_D = penalised_row(c_D, covariance_DD, scale, weight)
        alpha = -(row_D @ c_D).item() / explained
        slope = -explained + alpha * explained / scale**2 - 2 * weight / alpha
        assert abs(slope) < 1e-10 * explained * alpha / scale**2
        assert alpha > scale**2  # so the volume term only lengthens the row


def test_a_pixel_that_never_varies_gets_no_weight():
    r_N, x_ND = samples()
    x_ND[:, 2] = 3.0
    row_D = penalised_row(*moments(r_N, x_ND))
    others = [0, 1, 3, 4, 5]
    alone_D = penalised_row(*moments(r_N, x_ND[:, others]))
    assert abs(row_D[2]) < 1e-10
    assert_close(row_D[others], alone_D, rtol=1e-8, atol=1e-10)


def test_em_with_this_m_step_never_raises_lse_and_volume():
    _, x_ND = samples(count=300)
    centred_ND = x_ND - x_ND.mean(0)
    rows_KD = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, volume, _ = VARIANTS[PENALTY]
    before = math.inf
    for _ in range(20):
        z_NK = centred_ND @ rows_KD.T
        now = -(-z_NK).logsumexp(1).mean() + volume(0.0, z_NK.var(0, correction=0)).sum()
        assert now <= before + 1e-12
        before = now
        c_KD = (-z_NK).softmax(1).T @ centred_ND / len(x_ND)
        rows_KD = penalised_row(c_KD, centred_ND.T @ centred_ND / len(x_ND))


def test_with_relu_the_least_value_is_at_zero_and_with_linear_energies_there_is_none():
    r_N, x_ND = samples()
    factors = torch.tensor([1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3])
    found = along_rows(r_N, x_ND, factors)
    relu = found["ReLU, none"].to_numpy()
    assert (relu > 0).all()
    np.testing.assert_allclose(relu, relu[3] * found["factor"], rtol=1e-12)
    for unbounded in ("linear, none", "linear, log variance"):
        values = found[unbounded].to_numpy()
        assert (np.diff(values) < 0).all()
        assert values[-1] < -100
    for bounded in ("ReLU, log variance", PENALTY, DECAYED):
        values = found[bounded].to_numpy()
        assert 0 < values.argmin() < len(values) - 1


def test_a_row_is_least_along_its_own_scale():
    r_N, x_ND = samples()
    found = along_rows(r_N, x_ND, torch.linspace(0.5, 1.5, 101))
    for variant in (PENALTY, DECAYED):
        assert found["factor"][found[variant].argmin()] == pytest.approx(1.0)


def test_the_decayed_row_has_the_variance_that_its_equation_asks_for():
    r_N, x_ND = samples()
    c_D, covariance_DD = moments(r_N, x_ND)
    row_D = decayed_row(c_D, covariance_DD)
    variance = row_D @ covariance_DD @ row_D
    assert variance > 2 * WEIGHT * torch.linalg.eigvalsh(covariance_DD)[-1] / DECAY
    slope_D = c_D + DECAY * row_D - 2 * WEIGHT / variance * (covariance_DD @ row_D)
    assert slope_D.norm() < 1e-10 * c_D.norm()
