"""What samples say about units and random directions, against the definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from implicit_em.viewer.exploring import CONTROLS, evenly_spaced, random_units
from implicit_em.viewer.statistics import (
    by_rank,
    label_aurocs,
    largest_of_each_row,
    silent,
    strongest,
)

SEEDS = st.integers(0, 2**32 - 1)


def entries(seed, samples=60):
    """Return the samples that activate a unit, and coarse activations, so that there are ties."""
    rng = np.random.default_rng(seed)
    dense_N = (rng.integers(0, 5, samples) * (rng.random(samples) < rng.random())).astype(float)
    return dense_N, np.flatnonzero(dense_N), dense_N[dense_N > 0]


@given(SEEDS, st.integers(1, 70))
def test_the_strongest_are_those_of_a_sort_one_of_each_group(seed, most):
    _, samples_E, values_E = entries(seed)
    groups_E = samples_E // 4
    expected, seen = [], set()
    for entry in sorted(range(len(values_E)), key=lambda entry: (-values_E[entry], entry)):
        if groups_E[entry] not in seen:
            seen.add(groups_E[entry])
            expected.append(entry)
    assert strongest(values_E, groups_E, most).tolist() == expected[:most]


@given(SEEDS, st.integers(1, 6), st.integers(1, 4))
def test_parts_by_rank_follow_one_another_and_hold_as_much_as_they_can(seed, parts, each):
    _, _, values_E = entries(seed)
    found = by_rank(values_E, parts, each, np.random.default_rng(0))
    assert len(found) == min(parts, len(values_E))
    sizes = [len(part) for part in np.array_split(values_E, parts) if len(part)]
    assert [len(part) for part in found] == [min(each, size) for size in sizes]
    chosen = np.concatenate([*found, np.empty(0, int)]).astype(int)
    assert len(set(chosen)) == len(chosen)
    assert (np.diff(values_E[chosen]) <= 0).all()


@given(SEEDS, st.integers(0, 70))
def test_silent_samples_are_silent_different_and_all_if_there_are_few(seed, most):
    dense_N, samples_E, _ = entries(seed)
    found = silent(samples_E, len(dense_N), most, np.random.default_rng(seed))
    left = np.flatnonzero(dense_N == 0)
    assert set(found) <= set(left)
    assert len(found) == len(set(found)) == min(most, len(left))
    assert found.tolist() == sorted(found)
    if most >= len(left):
        assert found.tolist() == left.tolist()


@given(SEEDS)
def test_the_auroc_of_a_label_counts_silent_samples(seed):
    dense_N, samples_E, values_E = entries(seed)
    labels_N = np.random.default_rng(seed).integers(0, 3, len(dense_N))
    counts_C = np.bincount(labels_N, minlength=4)
    found_C = label_aurocs(rankdata(values_E), labels_N[samples_E], counts_C)
    expected = [
        roc_auc_score(labels_N == c, dense_N) if 0 < counts_C[c] < len(dense_N) else np.nan
        for c in range(4)
    ]
    np.testing.assert_allclose(found_C, expected, rtol=1e-12)


def test_the_largest_of_a_row_are_above_0_and_in_order():
    values_BK = np.array([[0.5, 0, -1, 0.7], [0, 0, -2, -1]])
    assert largest_of_each_row(values_BK, 3) == [[(3, 0.7), (0, 0.5)], []]
    assert largest_of_each_row(values_BK, 1) == [[(3, 0.7)], []]


def test_units_are_spaced_evenly_by_how_often_they_are_active():
    assert evenly_spaced([0.3, 0.0, 0.1, 0.2]) == [2, 3, 0]
    assert evenly_spaced([0.0, 0.0]) == []
    densities = np.random.default_rng(0).permutation(np.linspace(0.01, 0.9, 500))
    chosen = [densities[unit] for unit in evenly_spaced(densities)]
    assert len(chosen) == CONTROLS
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1]) == (densities.min(), densities.max())
    assert np.ptp(np.diff(chosen)) < 0.003


def test_a_random_unit_is_active_where_its_products_are_largest():
    x_ND = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    directions = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    units = random_units(x_ND, 6, [7, 300])
    products_N = (x_ND @ directions[0]).numpy()
    largest = np.sort(products_N)[-7:]
    assert sorted(units[0].samples_E) == sorted(np.argsort(products_N)[-7:])
    assert list(units[0].samples_E) == sorted(units[0].samples_E)
    silent = np.sort(products_N)[-8]
    assert np.sort(units[0].values_E) == pytest.approx(largest - silent, rel=1e-5)
    assert len(units[1].samples_E) == 300
    assert (units[1].values_E > 0).all()
