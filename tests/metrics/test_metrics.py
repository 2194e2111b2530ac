import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from helpers.shapes import Shapes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from torch.testing import assert_close

from implicit_em.metrics.energies import (
    CURVES,
    FINAL,
    GRAM_ROWS,
    L0,
    RECONSTRUCTION,
    DeadUnits,
    Density,
    InactiveUnits,
    MaximumResponsibility,
    Redundancy,
    ResponsibilityEntropy,
    SilentUnits,
    UnexplainedVariance,
    energy_metrics,
    final_metrics,
)
from implicit_em.metrics.reconstruction import fvu

SAMPLES, K = 150, 6
BATCHES = [1, 64, 0, 7, 78]  # one is empty, as a process's part may be


@pytest.fixture
def energies():
    """Mixed scales, the first two dead, the third weak; one unit far from 0."""
    drawn = torch.randn(SAMPLES, K, generator=torch.Generator().manual_seed(0)).relu()
    drawn[:, 4] += 0.5 * drawn[:, 5] + 100
    return drawn * torch.tensor([0.0, 0.0, 1e-3, 1.0, 1.0, 5.0])


def value(metric, energies, batches=None):
    whole = BATCHES if len(energies) == SAMPLES else len(energies)
    for batch in energies.split(batches or whole):
        metric.update(batch)
    return metric.compute().item()


def test_dead_units_counts_small_variances(energies):
    variances = energies.double().numpy().var(0, ddof=1)
    assert value(DeadUnits(K), energies) == (variances < 0.01).sum() == 3


def test_the_variance_of_dead_units_is_unbiased_and_the_threshold_strict():
    pair = torch.tensor([[-1.0], [1.0]])
    assert value(DeadUnits(1, threshold=2.0), pair) == 0
    assert value(DeadUnits(1, threshold=2.001), pair) == 1


def drawn(samples, components, seed=0):
    """Correlated energies on a level, float32."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(samples, 3, generator=generator)
    weights = torch.randn(3, components, generator=generator)
    return causes @ weights + torch.randn(samples, components, generator=generator) + 5


def by_definition(energies):
    correlations = np.corrcoef(energies.double().numpy(), rowvar=False)
    return np.square(correlations).sum() - energies.shape[1]


@pytest.mark.parametrize("components", [2, 64, 149, 150, 151, 400])
def test_redundancy_is_that_of_the_definition_on_both_sides_of_the_switch(components):
    energies = drawn(SAMPLES, components)
    assert value(Redundancy(components), energies) == pytest.approx(by_definition(energies), 1e-11)


@pytest.mark.parametrize("components", [20, 400])
def test_units_that_do_not_vary_add_nothing_to_redundancy(components):
    alive = drawn(SAMPLES, components)
    constant = torch.tensor([0.0, -3.3, 1e4]).expand(SAMPLES, 3)
    metric = Redundancy(components + 3)
    assert value(metric, torch.cat([constant, alive], 1)) == pytest.approx(by_definition(alive))


@pytest.mark.parametrize("components", [K, 400])
@pytest.mark.parametrize(("samples", "alive"), [(0, K), (1, K), (SAMPLES, 0), (SAMPLES, 1)])
def test_redundancy_needs_two_samples_and_two_units_that_vary(samples, components, alive):
    energies = drawn(samples, components) * (torch.arange(components) < alive)
    assert math.isnan(value(Redundancy(components), energies))
    if samples > 1:
        assert value(DeadUnits(components), energies) == components - alive


@given(
    st.tuples(st.integers(2, 9), st.integers(2, 9)).flatmap(
        lambda shape: arrays(np.float32, shape, elements=st.integers(-4, 4))
    ),
    st.data(),
)
def test_redundancy_is_that_of_the_units_that_vary_however_the_samples_come(array, data):
    energies = torch.from_numpy(array)
    varying = energies[:, energies.double().var(0) > 0]
    expected = by_definition(varying) if varying.shape[1] > 1 else math.nan
    order = data.draw(st.permutations(range(len(energies))))
    first = data.draw(st.integers(0, len(energies)))
    found = value(Redundancy(energies.shape[1]), energies[order], [first, len(energies) - first])
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2])
def test_products_of_a_wide_layer_with_few_active_units_are_those_of_all(share):
    generator = torch.Generator().manual_seed(0)
    active = torch.rand(1100, 1024, generator=generator) < share
    energies = torch.rand(1100, 1024, generator=generator) * active
    value(metric := Redundancy(1024), energies, 500)
    double = energies.double()
    torch.testing.assert_close(metric.products_KK, double.mT @ double, rtol=1e-12, atol=1e-12)


def test_a_wide_layer_needs_no_matrix_of_all_pairs_of_components_or_of_samples():
    samples, components = GRAM_ROWS + 76, GRAM_ROWS + 176
    energies = drawn(samples, components)
    with Shapes() as shapes:
        found = value(Redundancy(components), energies, 500)
    assert max(map(math.prod, shapes.seen)) == samples * components
    assert (samples, samples) not in shapes.seen
    assert found == pytest.approx(by_definition(energies), rel=1e-11)


def test_dead_units_alone_need_no_matrix():
    energies = drawn(3, 50)
    with Shapes() as shapes:
        value(DeadUnits(50), energies)
    assert max(map(math.prod, shapes.seen)) < 50 * 50


def test_redundancy_keeps_no_samples_beside_the_matrix_of_products():
    metric = Redundancy(K)
    for samples, kept in ((K - 2, (K - 2, 0)), (1, (K - 1, 0)), (1, (0, 1)), (3, (0, 1))):
        metric.update(drawn(samples, K))
        assert (sum(map(len, metric.samples)), sum(map(len, metric.products))) == kept


def test_the_memory_of_a_batch_may_be_used_again():
    energies = drawn(SAMPLES, 400)
    metric = Redundancy(400)
    metric.update(buffer := energies.clone())
    buffer.zero_()
    assert metric.compute().item() == pytest.approx(by_definition(energies), rel=1e-11)


PARTS = [(3, 4), (3, 90), (90, 3), (70, 80), (40, 23), (40, 24), (0, 30), (0, 90)]
WIDE = 64


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("metric_class", [Redundancy, DeadUnits])
def test_merged_states_are_those_of_all_samples(metric_class, parts):
    energies = drawn(sum(parts), WIDE)
    merged, other, whole = (metric_class(WIDE) for _ in range(3))
    for metric, part in zip((merged, other), energies.split(parts), strict=True):
        metric.update(part)
    merged.merge_state(other)
    for metric in (merged, whole):
        metric.update(drawn(5, WIDE, seed=1))
    whole.update(energies)
    assert_close(merged.compute(), whole.compute())


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("metric_class", [Redundancy, DeadUnits])
def test_processes_compute_what_one_would_from_all_samples(metric_class, parts):
    energies = drawn(sum(parts), WIDE)
    barrier, posted = Barrier(len(parts), timeout=10), [None] * len(parts)

    def process(rank, samples):
        def gather(tensor, group=None):
            posted[rank] = tensor
            barrier.wait()
            gathered = list(posted)
            barrier.wait()
            assert len({(t.dtype, t.ndim) for t in gathered}) == 1
            return gathered

        metric = metric_class(WIDE, dist_sync_fn=gather, distributed_available_fn=lambda: True)
        if len(samples):
            metric.update(samples)
        return metric, metric.compute()

    expected = metric_class(WIDE)
    expected.update(energies)
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``compute`` method .* was called before")
        results = list(pool.map(process, range(len(parts)), energies.split(parts)))
    for (metric, found), part in zip(results, parts, strict=True):
        assert_close(found, expected.compute())
        assert metric.count == part


@pytest.mark.parametrize("components", [K, 400])
def test_a_call_gives_the_value_of_its_batch_and_adds_it(components):
    energies = drawn(SAMPLES, components)
    metric = Redundancy(components)
    for batch in energies.split([30, 100, 20]):
        assert metric(batch).item() == pytest.approx(by_definition(batch))
    assert sum(map(len, metric.products)) == (components == K)
    assert metric.compute().item() == pytest.approx(by_definition(energies))


def test_silent_units_are_never_above_a_share_of_the_mean(energies):
    magnitudes = np.abs(energies.double().numpy())
    expected = (magnitudes.max(0) <= 0.01 * magnitudes.mean()).sum()
    assert value(SilentUnits(K), energies) == expected == 3
    assert value(SilentUnits(K), -1e-4 * energies) == 3, "whatever their scale and sign"
    assert value(DeadUnits(K), 1e-4 * energies) == K
    energies[70, 0] = -1.0
    assert value(SilentUnits(K), energies) == 2, "one active image is enough"


def test_inactive_units_are_never_above_zero(energies):
    weakest = energies * torch.tensor([1.0, 1.0, 1e-30, 1.0, 1.0, -1.0])
    expected = (weakest.numpy() <= 0).all(0).sum()
    assert value(InactiveUnits(K), weakest) == expected == 3
    assert value(SilentUnits(K), weakest) == 3, "the third is active, but weakly"
    once = torch.zeros(SAMPLES, K)
    once[-1, 2] = 1e-30
    first, other = InactiveUnits(K), InactiveUnits(K)
    first.update(once[:-1])
    other.update(once[-1:])
    first.merge_state(other)  # as processes add their states
    assert first.compute() == K - 1


@pytest.mark.parametrize("level", [0, 1e3])
def test_the_unexplained_variance_is_that_of_the_definition(level):
    draw = torch.Generator().manual_seed(1)
    x, error = (torch.randn(SAMPLES, 9, generator=draw) for _ in range(2))
    x = x * torch.arange(9) + level
    parts, whole = [UnexplainedVariance() for _ in range(2)], UnexplainedVariance()
    for metric, of in ((parts[0], slice(0, 40)), (parts[1], slice(40, None)), (whole, slice(None))):
        for x_BD, error_BD in zip(x[of].split(30), error[of].split(30), strict=True):
            metric.update(x_BD + error_BD, x_BD)
    whole.update(x[:0], x[:0])
    expected = fvu(x.numpy(), (x + error).numpy())
    assert whole.compute().item() == pytest.approx(expected, rel=1e-6)
    parts[0].merge_state(parts[1])
    assert parts[0].compute().item() == pytest.approx(expected, rel=1e-6)
    mean = UnexplainedVariance()
    mean.update(x.double().mean(0).expand_as(x), x)
    assert mean.compute().item() == pytest.approx(1, abs=1e-6), "the mean explains nothing"
    constant = UnexplainedVariance()
    constant.update(x[:1].expand_as(x), x[:1].expand_as(x))
    assert constant.compute().isnan()


def test_entropy_and_maximum_of_the_responsibilities_are_means_over_the_images(energies):
    responsibilities = softmax(-energies.double().numpy(), axis=1)
    entropies = -(responsibilities * np.log(responsibilities)).sum(1)
    assert value(ResponsibilityEntropy(), energies) == pytest.approx(entropies.mean(), rel=1e-12)
    largest = responsibilities.max(1).mean()
    assert value(MaximumResponsibility(), energies) == pytest.approx(largest, rel=1e-12)


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


def test_density_is_the_share_of_pairs_above_its_threshold(energies):
    expected = (np.abs(energies.numpy()) > 0.01).mean()
    assert 0 < expected < 1
    assert value(Density(), energies) == pytest.approx(expected, rel=1e-14)
    assert value(Density(), -energies) == pytest.approx(expected, rel=1e-14)
    at, above = 0.01, math.nextafter(0.01, 1)
    assert value(Density(), torch.tensor([[at, -at, above, -above]], dtype=torch.float64)) == 0.5


@pytest.mark.parametrize("components", [K, 400])
def test_collections_agree_with_the_metrics_alone(components):
    energies = drawn(SAMPLES, components) * (torch.arange(components) > 1)
    curves = energy_metrics(components)
    for batch in energies.split(BATCHES):
        curves.update(energies=batch)
    found = {name: metric.item() for name, metric in curves.compute().items()}
    assert found == {
        "dead_units": value(DeadUnits(components), energies),
        "redundancy": value(Redundancy(components), energies),
        "responsibility_entropy": value(ResponsibilityEntropy(), energies),
        "density": value(Density(), energies),
    }


@pytest.mark.parametrize("components", [K, 100, 400])
def test_a_reset_collection_forgets(components):
    energies = drawn(SAMPLES, components)
    curves = energy_metrics(components)
    curves.update(energies=energies)
    before = curves.compute()
    curves.reset()
    curves.update(energies=3 * energies[:20])
    curves.compute()
    curves.reset()
    curves.update(energies=energies)
    assert_close(curves.compute(), before, rtol=0, atol=0)


def test_l0_counts_the_entries_above_zero_of_a_sample():
    energies = torch.tensor([[0.0, 1e-9, -2.0, 3.0], [1.0, 0.0, 0.0, 0.0], [-1.0, 0, 0, 0]])
    assert value(L0(), energies) == 1  # 2 + 1 + 0 in three samples


def test_final_metrics_name_the_reconstruction_error(energies):
    x = torch.rand(SAMPLES, 9, generator=torch.Generator().manual_seed(1))
    reconstruction = x + 0.1 * torch.rand(SAMPLES, 9, generator=torch.Generator().manual_seed(2))
    finals = final_metrics(K, "transpose_reconstruction_mse")
    for e, p, t in zip(
        *(tensor.split(BATCHES) for tensor in (energies, reconstruction, x)), strict=True
    ):
        finals.update(energies=e, preds=p, target=t)
    found = finals.compute()
    expected = np.square((reconstruction - x).double().numpy()).mean()
    assert found["transpose_reconstruction_mse"].item() == pytest.approx(expected, rel=1e-6)
    assert found["silent_units"].item() == 3


@pytest.mark.parametrize("own", [("reconstruction_mse", "fvu"), RECONSTRUCTION[1:]])
def test_the_tuples_name_the_metrics_of_the_collections(own):
    assert set(energy_metrics(K)) == set(CURVES)
    assert set(final_metrics(K, own[0])) == {*FINAL, *own}


def test_states_are_float64_and_stay_so(energies):
    finals = final_metrics(K).float().half()
    finals.update(energies=energies, preds=energies, target=energies)
    for metric in finals.values():
        states = [getattr(metric, name) for name in metric._defaults]
        dtypes = {s.dtype for s in states if isinstance(s, torch.Tensor) and s.is_floating_point()}
        assert dtypes == {torch.float64}, metric
