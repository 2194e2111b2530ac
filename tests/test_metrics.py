import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from implicit_em.metrics import (
    DeadUnits,
    Density,
    MaximumResponsibility,
    Redundancy,
    ResponsibilityEntropy,
    SilentUnits,
    energy_metrics,
    final_metrics,
)

SAMPLES, K = 150, 6
BATCHES = [1, 64, 7, 78]


@pytest.fixture
def energies():
    """Mixed scales, the first two dead, the third weak; one unit far from 0."""
    drawn = torch.randn(SAMPLES, K, generator=torch.Generator().manual_seed(0)).relu()
    drawn[:, 4] += 0.5 * drawn[:, 5] + 100
    return drawn * torch.tensor([0.0, 0.0, 1e-3, 1.0, 1.0, 5.0])


def value(metric, energies):
    for batch in energies.split(BATCHES if len(energies) == SAMPLES else len(energies)):
        metric.update(batch)
    return metric.compute().item()


def softmax(energies):
    likelihoods = np.exp(-energies.double().numpy())
    return likelihoods / likelihoods.sum(1, keepdims=True)


def test_dead_units_counts_small_variances(energies):
    variances = energies.double().numpy().var(0, ddof=1)
    assert value(DeadUnits(K), energies) == (variances < 0.01).sum() == 3


def test_the_variance_of_dead_units_is_unbiased_and_the_threshold_strict():
    pair = torch.tensor([[-1.0], [1.0]])
    assert value(DeadUnits(1, threshold=2.0), pair) == 0
    assert value(DeadUnits(1, threshold=2.001), pair) == 1


def test_redundancy_sums_squared_correlations_of_the_units_that_vary(energies):
    correlations = np.corrcoef(energies[:, 2:].double().numpy(), rowvar=False)
    expected = np.square(correlations).sum() - 4
    assert value(Redundancy(K), energies) == pytest.approx(expected, rel=1e-8)


def test_redundancy_does_not_depend_on_a_units_scale(energies):
    weaker = energies * torch.tensor([1.0, 1.0, 1e-3, 1.0, 1.0, 1e-6])
    expected = value(Redundancy(K), energies)
    assert value(Redundancy(K), weaker) == pytest.approx(expected, rel=1e-5)


def test_identical_units_are_redundant():
    unit = torch.randn(SAMPLES, 1, generator=torch.Generator().manual_seed(0))
    assert value(Redundancy(3), unit.expand(SAMPLES, 3)) == pytest.approx(6)


@pytest.mark.parametrize("alive", [0, 1])
def test_redundancy_is_nan_where_fewer_than_two_units_vary(energies, alive):
    assert math.isnan(value(Redundancy(K), energies * (torch.arange(K) >= K - alive)))


@pytest.mark.parametrize("batch_size", [128, 2000])
def test_redundancy_of_constant_units_is_nan_whatever_their_level(batch_size):
    levels = 3 * torch.rand(64, generator=torch.Generator().manual_seed(0))
    metric = Redundancy(64)
    for batch in levels.expand(10_000, 64).split(batch_size):
        metric.update(batch)
    assert metric.compute().isnan()


def test_a_dead_model(energies):
    dead = 0 * energies
    assert value(DeadUnits(K), dead) == K
    assert value(SilentUnits(K), dead) == K
    assert value(Density(), dead) == 0
    assert value(ResponsibilityEntropy(), dead) == pytest.approx(math.log(K), rel=1e-14)
    assert math.isnan(value(Redundancy(K), dead))


def test_silent_units_are_never_above_a_share_of_the_mean(energies):
    magnitudes = np.abs(energies.double().numpy())
    expected = (magnitudes.max(0) <= 0.01 * magnitudes.mean()).sum()
    assert value(SilentUnits(K), energies) == expected == 3
    assert value(SilentUnits(K), -energies) == 3


def test_one_active_image_is_enough_not_to_be_silent(energies):
    energies[70, 0] = -1.0
    assert value(SilentUnits(K), energies) == 2


def test_silent_units_are_scale_free_and_dead_units_are_not(energies):
    assert value(SilentUnits(K), 1e-4 * energies) == value(SilentUnits(K), energies) == 3
    assert value(DeadUnits(K), 1e-4 * energies) == K


def test_responsibility_entropy_is_the_mean_over_the_images(energies):
    responsibilities = softmax(energies)
    entropies = -(responsibilities * np.log(responsibilities)).sum(1)
    assert value(ResponsibilityEntropy(), energies) == pytest.approx(entropies.mean(), rel=1e-12)


@pytest.mark.parametrize("level", [0.0, -3.5, 1e4])
def test_equal_energies_have_the_largest_entropy(level):
    equal = torch.full((SAMPLES, 64), level)
    assert value(ResponsibilityEntropy(), equal) == pytest.approx(math.log(64), rel=1e-14)
    assert value(MaximumResponsibility(), equal) == pytest.approx(1 / 64, rel=1e-14)


def test_a_single_explanation_has_no_entropy():
    one = torch.full((SAMPLES, K), 1e4)
    one[:, 2] = 0
    assert value(ResponsibilityEntropy(), one) == 0
    assert value(MaximumResponsibility(), one) == 1


def test_maximum_responsibility_is_the_mean_over_the_images(energies):
    expected = softmax(energies).max(1).mean()
    assert value(MaximumResponsibility(), energies) == pytest.approx(expected, rel=1e-12)


def test_density_is_the_share_of_active_pairs(energies):
    expected = (np.abs(energies.numpy()) > 0.01).mean()
    assert 0 < expected < 1
    assert value(Density(), energies) == pytest.approx(expected, rel=1e-14)
    assert value(Density(), -energies) == pytest.approx(expected, rel=1e-14)


def test_the_threshold_of_density_is_strict():
    at, above = 0.01, math.nextafter(0.01, 1)
    assert value(Density(), torch.tensor([[at, -at, above, -above]], dtype=torch.float64)) == 0.5


def test_collections_agree_with_the_metrics_alone(energies):
    curves = energy_metrics(K)
    for batch in energies.split(BATCHES):
        curves.update(energies=batch)
    found = {name: metric.item() for name, metric in curves.compute().items()}
    assert found == {
        "dead_units": value(DeadUnits(K), energies),
        "redundancy": value(Redundancy(K), energies),
        "responsibility_entropy": value(ResponsibilityEntropy(), energies),
        "density": value(Density(), energies),
    }


def test_a_reset_collection_forgets(energies):
    curves = energy_metrics(K)
    curves.update(energies=energies)
    before = curves.compute()
    curves.reset()
    curves.update(energies=3 * energies[:20])
    curves.compute()
    curves.reset()
    curves.update(energies=energies)
    assert_close(curves.compute(), before, rtol=0, atol=0)


def test_final_metrics_hold_all_and_name_the_reconstruction_error(energies):
    x = torch.rand(SAMPLES, 9, generator=torch.Generator().manual_seed(1))
    reconstruction = x + 0.1 * torch.rand(SAMPLES, 9, generator=torch.Generator().manual_seed(2))
    finals = final_metrics(K, "transpose_reconstruction_mse")
    for e, p, t in zip(
        *(tensor.split(BATCHES) for tensor in (energies, reconstruction, x)), strict=True
    ):
        finals.update(energies=e, preds=p, target=t)
    found = finals.compute()
    assert set(found) == {
        "dead_units",
        "silent_units",
        "redundancy",
        "responsibility_entropy",
        "maximum_responsibility",
        "density",
        "transpose_reconstruction_mse",
    }
    expected = np.square((reconstruction - x).double().numpy()).mean()
    assert found["transpose_reconstruction_mse"].item() == pytest.approx(expected, rel=1e-6)
    assert found["silent_units"].item() == 3
    assert "reconstruction_mse" in final_metrics(K)


def test_states_are_float64_and_stay_so(energies):
    finals = final_metrics(K).float().half()
    finals.update(energies=energies, preds=energies, target=energies)
    for metric in finals.values():
        states = [getattr(metric, name) for name in metric._defaults]
        assert {s.dtype for s in states if s.is_floating_point()} == {torch.float64}, metric
