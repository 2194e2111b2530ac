import numpy as np
import pytest
from scipy.sparse import csr_array, issparse

from implicit_em.metrics.sparse import SPARSE, WIDE, compact, csr_of, entries

RNG = np.random.default_rng(0)


def codes(units, density=SPARSE / 2, samples=40):
    drawn = RNG.normal(size=(samples, units)) * (RNG.random((samples, units)) < density)
    return drawn.astype(np.float32)


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, np.flipud])
def test_rows_are_those_of_scipy(layout):
    dense = layout(codes(50, density=0.2))
    dense[[0, 7, -1]] = 0
    found, expected = csr_of(dense), csr_array(dense)
    assert found.shape == expected.shape
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_a_number_that_is_none_is_an_entry():
    dense = np.array([[0, np.nan], [-0.0, 2]])
    assert np.isnan(entries(csr_of(dense))).tolist() == [True, False]
    assert entries(dense) is dense


@pytest.mark.parametrize(
    ("units", "density", "becomes"),
    [(WIDE, SPARSE / 2, True), (WIDE - 1, SPARSE / 2, False), (WIDE, 2 * SPARSE, False)],
)
def test_the_training_set_decides_for_both(units, density, becomes):
    train, test = codes(units, density), np.ones((3, units))
    found = compact(train, test)
    assert list(map(issparse, found)) == [becomes, becomes]
    assert (found[0] is train) == (not becomes)
    again = compact(*found)
    assert all(one is other for one, other in zip(again, found, strict=True))
