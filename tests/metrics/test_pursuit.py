"""The number of directions that describe a sample, against a pursuit by least squares."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_em.metrics.pursuit import DISTORTION, PURSUED, pursuit_l0


def sparse_samples(seed=0, features=24, width=16, density=0.06, samples=300):
    """Return unit features, and samples that combine few of them."""
    rng = np.random.default_rng(seed)
    truth_MD = rng.normal(size=(features, width))
    truth_MD /= np.linalg.norm(truth_MD, axis=1, keepdims=True)
    present_NM = rng.random((samples, features)) < density
    return truth_MD, (present_NM * rng.uniform(0.5, 1.5, present_NM.shape)) @ truth_MD


SOME = sparse_samples(samples=60)
NEEDED = pursuit_l0(*SOME)


def pursued_by_least_squares(directions_KD, x_ND):
    """Return the pursuit's mean number of directions, sample by sample, with numpy's solver."""
    unit_KD = directions_KD / np.linalg.norm(directions_KD, axis=1, keepdims=True)
    x_ND = x_ND - x_ND.mean(0)
    most = DISTORTION * (x_ND**2).sum(1).mean()
    needed = []
    for x_D in x_ND:
        taken, left_D = [], x_D
        while (left_D**2).sum() > most and len(taken) < x_ND.shape[1]:
            taken.append(int(np.abs(unit_KD @ left_D).argmax()))
            part_SD = unit_KD[taken]
            left_D = x_D - np.linalg.lstsq(part_SD.T, x_D, rcond=None)[0] @ part_SD
        needed.append(len(taken))
    return np.mean(needed)


@pytest.mark.parametrize("seed", range(3))
def test_a_pursuit_takes_as_many_directions_as_by_least_squares(seed):
    truth_MD, x_ND = sparse_samples(seed)
    other_KD = np.random.default_rng(seed + 10).normal(size=(40, 16))
    for directions_KD in (truth_MD, other_KD):
        expected = pursued_by_least_squares(directions_KD, x_ND)
        assert pursuit_l0(directions_KD, x_ND) == pytest.approx(expected)


def test_the_truth_needs_the_fewest_and_each_noise_more():
    truth_MD, x_ND = sparse_samples()
    noise_MD = np.random.default_rng(1).normal(size=truth_MD.shape) / 4
    needed = [pursuit_l0(truth_MD + size * noise_MD, x_ND) for size in (0, 0.3, 1, 3)]
    assert needed == sorted(needed)
    assert needed[0] < 0.5 * needed[-1]


@given(st.integers(0, 2**16), st.floats(1e-3, 1e3))
def test_lengths_signs_order_silent_rows_and_an_offset_do_not_count(seed, scale):
    truth_MD, x_ND = SOME
    rng = np.random.default_rng(seed)
    lengths_M = scale * rng.choice([-1, 1], len(truth_MD)) * rng.uniform(0.1, 10, len(truth_MD))
    changed_KD = rng.permutation(np.vstack([lengths_M[:, None] * truth_MD, np.zeros((2, 16))]))
    changed = pursuit_l0(changed_KD, scale * x_ND + rng.normal(size=16))
    assert changed == pytest.approx(NEEDED)


def test_what_cannot_be_described_counts_as_all_dimensions():
    x_ND = np.random.default_rng(0).normal(size=(60, 8))
    assert pursuit_l0(np.zeros((5, 8)), x_ND) == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 7 < pursuit_l0(np.eye(8)[[0, 0, 1]], x_ND) <= 8
    assert pursuit_l0(np.eye(8), np.ones((4, 8))) == 0, "equal samples have no variance"
    assert np.isnan(pursuit_l0(np.full((3, 8), np.nan), x_ND))


def test_only_the_first_samples_are_described():
    x_ND = np.random.default_rng(0).normal(size=(PURSUED, 8))
    more_ND = np.vstack([x_ND, np.full((10, 8), 1e6)])
    assert pursuit_l0(np.eye(8), more_ND) == pursuit_l0(np.eye(8), x_ND)
