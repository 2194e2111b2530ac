"""Random directions that are active as often as features."""

import numpy as np
import pytest
import torch

from implicit_em.viewer.exploring import CONTROLS, evenly_spaced, random_units


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
