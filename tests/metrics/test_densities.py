import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from implicit_em.metrics import Density
from implicit_em.metrics.densities import (
    EDGES,
    RELATIVE,
    density,
    density_histogram,
    unit_densities,
)

BY_HAND = np.array(
    [  # dead, sparse, weak beside its own maximum, constant, signed
        [0, 0, 100, 3, -2],
        [0, 5, 1, 3, 2],
        [0, 0, 1.5, 3, 0],
        [0, 0, 0, 3, 0],
    ]
)


def test_by_hand():
    assert unit_densities(BY_HAND).tolist() == [0, 0.25, 0.75, 1, 0.5]
    assert unit_densities(BY_HAND, RELATIVE).tolist() == [0, 0.25, 0.5, 1, 0.5], (
        "1 is not above 1 %"
    )
    assert density(BY_HAND) == 0.5
    assert density(BY_HAND, RELATIVE) == 0.45


def test_the_exact_density_is_that_of_the_metric_without_a_threshold():
    import torch

    metric = Density(threshold=0.0)
    metric.update(torch.tensor(BY_HAND))
    assert density(BY_HAND) == metric.compute()


def test_relu_of_a_normal_is_half_dense_and_a_softplus_fully():
    z = np.random.default_rng(0).standard_normal((20_000, 4)).astype(np.float32)
    assert density(z.clip(0)) == pytest.approx(0.5, abs=0.01)
    assert density(np.log1p(np.exp(z))) == 1
    assert density(np.log1p(np.exp(9 * z - 30)), RELATIVE) < 0.01, "small, though never zero"


def test_the_histogram_has_the_dead_apart_and_closed_upper_ends():
    densities = np.array([0, 0, 1e-7, 0.0001, 0.00011, 0.1, 0.1001, 0.5, 0.51, 1, 1])
    counts = density_histogram(densities)
    named = dict(zip(["dead", *EDGES], counts.tolist(), strict=True))
    some = {"dead": 2, 0.0001: 2, 0.0002: 1, 0.1: 1, 0.2: 1, 0.5: 1, 1.0: 3}
    assert named == dict.fromkeys(EDGES, 0) | some


@given(arrays(np.float64, 12, elements=st.floats(0, 1)))
def test_the_histogram_counts_every_unit(densities):
    counts = density_histogram(densities)
    assert counts.sum() == 12
    assert counts[0] == (densities == 0).sum()
    assert np.cumsum(counts)[1:].tolist() == [(densities <= edge).sum() for edge in EDGES]
