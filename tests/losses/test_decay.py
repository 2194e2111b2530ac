import math

import pytest
import torch
from helpers.draws import draw
from hypothesis import given
from hypothesis import strategies as st

from implicit_em.losses import decay, decorrelation, lse, variance


def test_is_half_the_sum_of_squares():
    assert decay(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).item() == 13


@given(st.integers(0, 999), st.floats(-6, 6), st.floats(-4, 2), st.sampled_from([0, 0.3, 3]))
def test_the_objective_with_it_is_bounded_below(seed, log_scale, log_weight, shift):
    """The bound of docs/explanation/theory.md, for rows of any length."""
    samples, units, eps = 40, 5, 1e-6
    x, c = draw(samples, 8, seed=seed) + shift, math.exp(log_weight)
    weight, bias = math.exp(log_scale) * draw(units, 8, seed=seed + 1), draw(units, seed=seed + 2)
    energies = (x @ weight.mT + math.exp(log_scale) * bias).relu()
    largest = torch.linalg.eigvalsh(torch.cov(x.mT))[-1].item()
    bound = -samples * math.log(units) + units * (
        1 - math.log(2 * largest / c) - c * eps / (2 * largest)
    )
    value = lse(energies) + variance(energies, eps) + decorrelation(energies) + c * decay(weight)
    assert value.item() >= bound - 1e-9 * abs(bound)


def test_alone_with_the_variance_rows_end_at_the_length_that_it_says():
    x, c = draw(200, 8), 0.5
    weight = draw(3, 8).requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = variance(x @ weight.mT, eps=1e-12) + c * decay(weight)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert weight.detach().norm(dim=1).tolist() == pytest.approx([math.sqrt(2 / c)] * 3, rel=1e-5)
