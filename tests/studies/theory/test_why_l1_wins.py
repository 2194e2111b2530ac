"""What is measured of L1 and of hybrids: which variant a run is, and codes of equal shares."""

import numpy as np
import pytest

from implicit_em.config import CONF
from implicit_em_studies.shared.planning import compose_sweeps
from implicit_em_studies.theory.reconstruction import (
    DENSITIES,
    EXPERIMENT,
    VARIANTS,
    at_equal_shares,
    density,
    variant,
)
from implicit_em_studies.theory.study import STUDY


def test_each_unit_is_active_on_the_same_share_of_the_training_samples():
    random = np.random.default_rng(0)
    rows, train, test = (random.normal(size=shape) for shape in ((5, 3), (400, 3), (90, 3)))
    first, second = at_equal_shares(rows, train, test, 0.2)
    assert (first > 0).mean(0) == pytest.approx(0.2)
    for unit, row in enumerate(rows):
        threshold = np.quantile([row @ x for x in train], 0.8)
        assert second[:, unit] == pytest.approx([max(0, row @ x - threshold) for x in test])


def test_a_longer_row_changes_nothing_but_the_scale():
    random = np.random.default_rng(1)
    rows, train, test = (random.normal(size=shape) for shape in ((4, 3), (50, 3), (20, 3)))
    scales = np.array([0.1, 1, 2, 30])
    for once, twice in zip(
        at_equal_shares(rows, train, test, 0.3),
        at_equal_shares(scales[:, None] * rows, train, test, 0.3),
        strict=True,
    ):
        assert twice == pytest.approx(scales * once)


def test_every_run_is_a_known_variant_and_every_variant_has_runs_at_each_density():
    grids = STUDY.grids(CONF)
    runs = compose_sweeps({name: grids[name] for name in EXPERIMENT.sweeps}, CONF, [])
    found = [(variant(cfg), density(cfg)) for _, cfg in runs]
    assert {kind: found.count(kind) for kind in found} == {
        (name, target): 5 for name in VARIANTS for target in DENSITIES
    }
