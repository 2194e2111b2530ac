import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import trapezoid
from scipy.sparse import csr_array
from sklearn.metrics import roc_auc_score

from implicit_em.metrics import recovery as module
from implicit_em.metrics.dictionaries import cosines
from implicit_em.metrics.recovery import (
    presence_auroc,
    random_best,
    random_share,
    recovered,
    recovery,
    split_and_merged,
)

ROWS = arrays(np.float64, (6, 4), elements=st.integers(-9, 9))
ORDER = st.permutations(range(6))
SCALES = st.lists(st.sampled_from([0.5, 3.0, 1e-170, 1e170]), min_size=6, max_size=6)


def directions(count, width, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width))


def test_cosines_by_their_definition():
    first, second = directions(5, 7), directions(4, 7, seed=1)
    second[2] = 0
    lengths = np.outer(np.sqrt((first**2).sum(1)), np.sqrt((second**2).sum(1)))
    expected = np.where(lengths > 0, first @ second.T / np.where(lengths > 0, lengths, 1), 0)
    assert cosines(first, second) == pytest.approx(expected)
    assert expected.min() < -0.1
    assert cosines(first, second, signed=False) == pytest.approx(np.abs(expected))
    assert cosines(first, second).dtype == cosines(np.float32(first), second).dtype == np.float64


def test_recovered_counts_what_is_above_the_threshold():
    assert recovered(np.array([0.5, 0.8, 0.9, -1]), 0.8) == 0.25
    assert recovered(np.array([0.5, 0.8, 0.9, -1]), 0.4) == 0.75


@pytest.mark.parametrize("width", [2, 3, pytest.param(10, marks=pytest.mark.slow), 300])
@pytest.mark.parametrize("signed", [True, False])
def test_random_directions_recover_what_theory_expects(width, signed):
    count, units = 4000, 20
    rng = np.random.default_rng(width)
    feature = np.eye(1, width)  # one feature and many sets of units: independent cosines
    best = np.array(
        [cosines(feature, rng.standard_normal((units, width)), signed).max() for _ in range(count)]
    )
    error = best.std() / np.sqrt(count)
    assert random_best(width, units, signed) == pytest.approx(best.mean(), abs=4 * error)
    for threshold in np.quantile(best, [0.1, 0.5, 0.95]):
        share = random_share(width, units, threshold, signed)
        sigma = np.sqrt(share * (1 - share) / count)
        assert share == pytest.approx((best > threshold).mean(), abs=4 * sigma)


def test_limits_of_random_directions():
    assert random_share(3, 1, np.array([-1, 0.2, 1])) == pytest.approx([1, 0.4, 0])
    assert random_share(3, 1, np.array([0, 0.2, 1]), signed=False) == pytest.approx([1, 0.8, 0])
    assert random_best(2, 1, signed=False) == pytest.approx(2 / np.pi)
    assert random_best(7, 1) == pytest.approx(0, abs=1e-9)
    assert random_best(3, 9) == pytest.approx(0.8), "2 K / (K + 1) - 1"
    assert random_share(5, 10**9, 0.0) == 1
    tail = random_share(300, 1000, 0.8)
    assert 0 < tail < 1e-40
    assert random_share(300, 2000, 0.8) == pytest.approx(2 * tail)


@pytest.mark.parametrize("width", [64, 4096])
@pytest.mark.parametrize("signed", [True, False])
def test_the_expected_best_is_the_integral_on_a_fine_grid(width, signed):
    grid = np.linspace(-1 if signed else 0, 1, 100_001)
    share = random_share(width, 50_000, grid, signed)
    integral = trapezoid(share, grid)
    assert random_best(width, 50_000, signed) == pytest.approx(grid[0] + integral, abs=1e-6)


def test_split_and_merged_by_hand():
    table = np.array(
        [
            [0.9, 0.85, 0.1],  # two units stand for it: split
            [0.7, 0.2, 0.1],  # its best unit is that of the first: merged, and so is the first
            [0.1, 0.2, 0.81],
            [0.0, 0.0, 0.0],  # no unit at all
        ]
    )
    assert split_and_merged(table) == (0.25, 0.5)
    assert split_and_merged(table, threshold=0.86) == (0, 0.5)
    assert split_and_merged(np.eye(4)) == (0, 0)
    assert split_and_merged(-np.eye(4)) == (0, 0)
    assert split_and_merged(np.zeros((4, 2))) == (0, 0)


def samples(count=120, features=5, units=4, seed=0):
    """Presence, and rounded activations, which have ties."""
    rng = np.random.default_rng(seed)
    presence = rng.random((count, features)) < 0.3
    mixture = rng.random((features, units))
    return presence, (presence @ mixture + rng.normal(size=(count, units))).round(1).clip(min=0)


@pytest.mark.parametrize("count", [120, 121])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_auroc_of_the_unit_chosen_on_the_other_half(count, sparse, monkeypatch):
    presence, activations = samples(count)
    half = count // 2
    expected, optimistic = [], []
    for feature in presence.T:
        first = [roc_auc_score(feature[:half], unit[:half]) for unit in activations.T]
        second = [roc_auc_score(feature[half:], unit[half:]) for unit in activations.T]
        expected.append(second[int(np.argmax(first))])
        optimistic.append(max(second))
    assert expected != optimistic
    given_presence = csr_array(presence) if sparse else presence
    assert presence_auroc(given_presence, activations) == pytest.approx(expected)
    assert presence_auroc(given_presence, 0 * activations) == pytest.approx(np.full(5, 0.5))
    monkeypatch.setattr(module, "RANKS", 1)
    assert presence_auroc(given_presence, activations) == pytest.approx(expected)


def test_features_that_a_half_lacks_have_no_auroc():
    presence = np.zeros((8, 5), dtype=bool)
    presence[[0, 5], 0] = True
    presence[[0, 1], 1] = True  # never in the second half
    presence[6, 2] = True  # never in the first
    presence[:, 3] = True  # always
    activations = presence[:, :1].astype(float)
    assert presence_auroc(presence, activations) == pytest.approx([1, *[np.nan] * 4], nan_ok=True)
    result = recovery(np.eye(5), presence, activations, {})
    assert result == {"auroc": 1.0, "auroc_features": 1, "dead_units": 0, "l0": 0.25}
    assert recovery(np.eye(5), presence * 0, activations, {})["auroc"] is None
    assert np.isnan(presence_auroc(presence[:1], activations[:1])).all()


def test_activations_must_be_finite():
    presence, activations = samples()
    activations[3, 1] = np.nan
    with pytest.raises(ValueError, match="activations_NK is not finite"):
        presence_auroc(presence, activations)


def sparse_codes(features=40, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((400, features)) < 0.1) * rng.uniform(0.5, 1.5, (400, features))


def test_the_truth_recovers_itself_in_any_order_and_its_opposite_not():
    truth, codes = directions(40, 16), sparse_codes()
    order, factors = np.random.default_rng(1).permutation(40), np.arange(1, 41)[:, None]
    for found, signed, share in (
        (truth, True, 1),
        (truth[order] * factors, True, 1),
        (-truth[order], False, 1),
        (-truth, True, 0),
    ):
        result = recovery(truth, codes > 0, codes[:, order], {"encoder": found}, signed)
        assert result["encoder_found_0.8"] == result["encoder_found_0.9"] == share
        assert result["auroc"] == 1
        assert (result["auroc_features"], result["dead_units"]) == (40, 0)
        if share:
            assert result["encoder_mean_cosine"] == pytest.approx(1)
            assert result["encoder_merged"] == result["encoder_split"] == 0
    negative = recovery(truth, codes > 0, -codes, {}, signed=False)
    assert negative == recovery(truth, codes > 0, codes, {})
    assert recovery(truth, codes > 0, -codes, {})["l0"] == 0


def test_all_measurements_by_name():
    truth, codes = directions(40, 16), sparse_codes()
    codes[:, 7] = 0
    result = recovery(truth, codes > 0, codes, {"encoder": truth, "decoder": None, "ridge": truth})
    measured = ("found_0.8", "found_0.9", "mean_cosine", "split", "merged")
    kinds = ("encoder", "decoder", "ridge")
    names = [f"{kind}_{name}" for kind in kinds for name in measured]
    assert list(result) == [*names, "auroc", "auroc_features", "dead_units", "l0"]
    assert {key for key, value in result.items() if value is None} == set(names[5:10])
    assert (result["dead_units"], result["auroc_features"]) == (1, 39)
    assert result["l0"] == (codes > 0).sum(1).mean()


@given(ROWS, ROWS, ORDER, ORDER, SCALES, st.booleans())
def test_recovery_does_not_depend_on_order_and_scale(truth, found, order, other, scales, signed):
    table = cosines(truth, found, signed)
    assume(all(np.abs(table - threshold).min() > 1e-9 for threshold in module.THRESHOLDS))
    codes = np.zeros((2, 6))
    expected = recovery(truth, codes, codes, {"rows": found}, signed)
    moved = (found * np.array(scales)[:, None])[list(order)]
    result = recovery(truth[list(other)], codes, codes, {"rows": moved}, signed)
    for key, value in expected.items():
        if key != "rows_merged":  # ties between units decide it
            assert result[key] == pytest.approx(value, abs=1e-12)


@given(st.integers(0, 99), st.sampled_from([np.exp, np.cbrt, lambda a: 3 * a - 1]), st.randoms())
def test_aurocs_depend_on_the_order_of_activations_alone(seed, monotone, random):
    presence, activations = samples(60, seed=seed)
    expected = presence_auroc(presence, activations)
    assert np.array_equal(presence_auroc(presence, monotone(activations)), expected, equal_nan=True)
    features = random.sample(range(5), 5)
    found = presence_auroc(presence[:, features], activations)
    assert np.array_equal(found, expected[features], equal_nan=True)
