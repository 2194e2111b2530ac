"""Explicit EM: the mixture that is a density, and M-steps made of gradients."""

import math

import pandas as pd
import pytest
import torch
from helpers.draws import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from implicit_em.engine.em import EM
from implicit_em.losses import lse
from implicit_em.models import Mixture
from implicit_em.training.run import train


def mixture(x_ND, units, seed=0):
    torch.manual_seed(seed)
    model = Mixture(x_ND.shape[1], units).double()
    model.start(x_ND)
    model.linear.bias.data = torch.randn(units, dtype=torch.float64)
    return model


def samples(count, width, seed=0, spread=1.0):
    return spread * draw(count, width, seed=seed)


def densities(means_KD, weights_K, x_ND):
    """The densities ``pi_j N(x; mu_j, I)`` from their definition, shape ``(N, K)``."""
    distances_NK = (x_ND[:, None] - means_KD).square().sum(-1)
    return weights_K * (-distances_NK / 2).exp() / (2 * math.pi) ** (x_ND.shape[1] / 2)


def statistics(model, x_ND):
    """The means over samples of r and of r x, from the definition."""
    densities_NK = densities(model.weight, model.linear.bias.softmax(-1), x_ND)
    r_NK = densities_NK / densities_NK.sum(1, keepdim=True)
    return r_NK.mean(0), r_NK.T @ x_ND / len(x_ND)


def likelihood_of(model, x_ND):
    return densities(model.weight, model.linear.bias.softmax(-1), x_ND).sum(1).log().mean().item()


def make_step(model, optimizer, x_ND):
    optimizer.zero_grad()
    lse(model(x_ND), reduction="mean").backward()
    optimizer.step()


def test_energies_are_negative_log_densities_up_to_what_all_components_share():
    x_ND = samples(7, 3)
    model = mixture(x_ND, 4)
    expected_NK = -densities(model.weight, model.linear.bias.softmax(-1), x_ND).log()
    shared_N1 = x_ND.square().sum(1, keepdim=True) / 2 + 1.5 * math.log(2 * math.pi)
    assert_close(model(x_ND) + shared_N1, expected_NK)


def test_a_step_over_all_samples_is_the_m_step():
    x_ND = samples(60, 5, spread=2.0)
    model = mixture(x_ND, 6)
    for _ in range(5):
        shares_K, sums_KD = statistics(model, x_ND)
        make_step(model, EM(model.parameters()), x_ND)
        assert_close(model.weight.data, sums_KD / shares_K[:, None], rtol=1e-10, atol=1e-10)
        assert_close(model.linear.bias.softmax(-1).data, shares_K, rtol=1e-10, atol=1e-10)


def test_smaller_steps_average_the_statistics_of_batches():
    batches = [samples(40, 5, seed, spread=2.0) for seed in range(6)]
    model = mixture(batches[0], 6)
    weights_K = model.linear.bias.softmax(-1).detach()
    sums_KD = weights_K[:, None] * model.weight.detach()
    optimizer = EM(model.parameters(), lr=0.3)
    for x_ND in batches:
        new_K, new_KD = statistics(model, x_ND)
        weights_K = 0.7 * weights_K + 0.3 * new_K
        sums_KD = 0.7 * sums_KD + 0.3 * new_KD
        make_step(model, optimizer, x_ND)
        assert_close(model.weight.data, (sums_KD / weights_K[:, None]).data, rtol=1e-9, atol=1e-9)
        assert_close(model.linear.bias.softmax(-1).data, weights_K.data, rtol=1e-9, atol=1e-9)


@settings(max_examples=40)
@given(
    st.integers(2, 30), st.integers(1, 6), st.integers(1, 8), st.floats(0.1, 5), st.integers(0, 99)
)
def test_the_likelihood_never_falls(count, width, units, spread, seed):
    x_ND = samples(max(count, units), width, seed, spread)
    model = mixture(x_ND, units, seed)
    optimizer = EM(model.parameters())
    before = likelihood_of(model, x_ND)
    for _ in range(5):
        make_step(model, optimizer, x_ND)
        after = likelihood_of(model, x_ND)
        assert after >= before - 1e-12 * max(1, abs(before))
        before = after


def test_a_component_that_is_responsible_for_nothing_stays_where_it_is():
    x_ND = samples(20, 3)
    model = mixture(x_ND, 3)
    model.weight.data[2] = 1e6
    make_step(model, EM(model.parameters()), x_ND)
    assert (model.weight[2] == 1e6).all()
    assert model.linear.bias.isfinite().all()


def test_the_means_start_as_samples():
    x_ND = samples(9, 3)
    model = mixture(x_ND, 9)
    assert_close(model.weight.data.sort(0).values, x_ND.sort(0).values)
    with pytest.raises(ValueError, match="hidden=9: more than the 8 training samples"):
        model.start(x_ND[:8])


@pytest.mark.parametrize("step", [0, -1, 1.5])
def test_a_step_size_out_of_range_is_refused(step):
    with pytest.raises(ValueError, match=f"lr={step}: allowed are numbers above 0, up to 1"):
        EM(Mixture(3, 2).parameters(), lr=step)


def test_other_parameters_are_refused():
    with pytest.raises(ValueError, match=r"must be those of models\.Mixture"):
        EM(torch.nn.Linear(3, 2, bias=False).parameters())


def test_a_run_trains_by_explicit_em(composed, small, tmp_path):
    overrides = ["model=mixture", "optimizer=em", "lr.value=1", "data.batch_size=600"]
    train(composed(*small, *overrides, "trainer.max_epochs=4", "probe=none"), tmp_path)
    losses = pd.read_csv(tmp_path / "history.csv")["train/loss"]
    assert (losses.diff().dropna() < 0).all()


def test_a_component_that_is_hardly_responsible_does_not_leave_the_samples():
    """In float32 its new weight is lost to rounding, and may not divide its step."""
    centres_CD = 3 * samples(10, 64)
    x_ND = (samples(600, 64, seed=1) + centres_CD[torch.arange(600) % 10]).float()
    model = mixture(x_ND, 64).float()
    model.linear.bias.data.zero_()
    optimizer, longest = EM(model.parameters()), x_ND.norm(dim=1).max()
    for x_BD in x_ND[torch.randperm(600)].split(64):
        make_step(model, optimizer, x_BD)
        assert model(x_ND).isfinite().all()
        assert model.weight.norm(dim=1).max() <= 2 * longest
