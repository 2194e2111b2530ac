"""``data=superposition``: samples with known features."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from implicit_em.base.errors import ConfigError
from implicit_em.data import Superposition, SuperpositionDataModule
from implicit_em.data.superposition import draw
from implicit_em.training.spec import RunSpec

SMALL = {"features": 30, "width": 12, "samples": 300, "test_samples": 100, "density": 0.1}
MANY = {**SMALL, "features": 42, "samples": 20_000, "test_samples": 2}


def ready(**settings):
    data = SuperpositionDataModule(**{**SMALL, **settings})
    data.setup()
    return data


def presence(**settings):
    """Which features are present in 20,000 samples, and their frequencies."""
    chosen = Superposition(**{**MANY, **settings})
    return draw(chosen).strengths_NM[: chosen.samples].toarray() > 0, chosen


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"density": 0.9},
        {"frequencies": 1.0},
        {"frequencies": 2.0, "density": 0.3},
        {"correlation": 0.7},
        {"hierarchy": 0.4},
        {"hierarchy": 0.95},
        {"hierarchy": 0.6, "correlation": 0.9, "frequencies": 0.5},
    ],
    ids=str,
)
def test_each_feature_is_as_frequent_as_it_should_be(settings):
    found_NM, chosen = presence(**settings)
    p_M = chosen.frequencies_M
    assert p_M.mean() == pytest.approx(chosen.density)
    deviations_M = (found_NM.mean(0) - p_M) / np.sqrt(p_M * (1 - p_M) / len(found_NM))
    assert np.abs(deviations_M).max() < 4.5
    assert deviations_M.std() < 2


def test_equal_frequencies_are_the_density():
    assert (Superposition(**SMALL).frequencies_M == 0.1).all()


@given(
    st.floats(0.1, 3), st.floats(0.001, 0.5), st.integers(1, 200), st.sampled_from([0, 0.3, 0.9])
)
def test_frequencies_follow_the_power_law_below_a_half(exponent, density, features, hierarchy):
    settings = {"frequencies": exponent, "features": features, "hierarchy": hierarchy}
    density *= 1 - hierarchy / 2  # more is not possible
    density *= 0.9 if hierarchy else 1  # the number of children is rounded
    if features < 5:
        settings["hierarchy"] = 0
    p_M = Superposition(density=density, **settings).frequencies_M
    parents_M = Superposition(density=density, **settings).parents_M
    roots_R = p_M[parents_M < 0]
    assert p_M.mean() == pytest.approx(density)
    assert roots_R.max() <= 0.5
    free_R = np.flatnonzero(roots_R < 0.5)
    constants = roots_R[free_R] * (free_R + 1.0) ** exponent
    assert constants == pytest.approx(constants[:1].repeat(len(constants)))
    if len(free_R) and free_R[0] > 0:
        last = free_R[0]
        assert constants[0] * last**-exponent >= 0.5 * (1 - 1e-6), "it was rightly set to 0.5"


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_presences_are_correlated_in_groups_of_four(correlation, exponent):
    found_NM, chosen = presence(correlation=correlation, frequencies=exponent, density=0.2)
    p_M, groups_M = chosen.frequencies_M, np.arange(42) // 4
    low_MM, high_MM = np.minimum.outer(p_M, p_M), np.maximum.outer(p_M, p_M)
    expected_MM = correlation * np.sqrt(low_MM * (1 - high_MM) / (high_MM * (1 - low_MM)))
    expected_MM *= groups_M[:, None] == groups_M
    np.fill_diagonal(expected_MM, 1)
    assert np.abs(np.corrcoef(found_NM.T) - expected_MM).max() < 0.035


@pytest.mark.parametrize("correlation", [0.0, 0.6])
@pytest.mark.parametrize("hierarchy", [0.3, 0.9])
def test_no_child_without_its_parent_and_half_with_it(hierarchy, correlation):
    found_NM, chosen = presence(hierarchy=hierarchy, correlation=correlation)
    parents_M = chosen.parents_M
    children = np.flatnonzero(parents_M >= 0)
    assert len(children) == round(hierarchy * 42)
    assert (parents_M[parents_M[children]] < 0).all()
    for child in children:
        with_parent_N = found_NM[:, parents_M[child]]
        assert not found_NM[~with_parent_N, child].any()
        share, count = found_NM[with_parent_N, child].mean(), with_parent_N.sum()
        assert share == pytest.approx(0.5, abs=4.5 * 0.5 / np.sqrt(count))


@pytest.mark.parametrize(
    ("strengths", "mean", "deviation"),
    [("uniform", 1, 12**-0.5), ("constant", 1, 0), ("exponential", 1, 1)],
)
def test_strengths_have_the_mean_one(strengths, mean, deviation):
    values = draw(Superposition(**{**MANY, "strengths": strengths})).strengths_NM.data
    assert len(values) > 50_000
    assert values.min() > 0
    assert values.mean() == pytest.approx(mean, abs=0.02)
    assert values.std() == pytest.approx(deviation, abs=0.02)
    if strengths == "uniform":
        assert 0.5 <= values.min() < values.max() < 1.5


def test_lengths_are_one_or_log_normal():
    lengths = np.linalg.norm(draw(Superposition(**SMALL)).directions_MD, axis=1)
    assert lengths == pytest.approx(np.ones(30))
    free = draw(Superposition(**{**SMALL, "features": 4000, "unit_norm": False})).directions_MD
    logarithms = np.log(np.linalg.norm(free, axis=1))
    assert logarithms.mean() == pytest.approx(0, abs=0.03)
    assert logarithms.std() == pytest.approx(0.5, abs=0.03)


def test_noise_offset_and_outlier_have_the_sizes_that_are_set():
    clean = draw(Superposition(**MANY)).samples_ND.astype(float)
    unit = np.sqrt(clean[:20_000].var(0).mean())
    noisy = draw(Superposition(**MANY, noise=0.5)).samples_ND - clean
    assert noisy.std() == pytest.approx(0.5 * unit, rel=0.01)
    assert noisy.mean() == pytest.approx(0, abs=0.01 * unit)
    assert np.abs(np.corrcoef(noisy.T) - np.eye(12)).max() < 0.04
    shifted = draw(Superposition(**MANY, offset=3.0)).samples_ND - clean
    assert np.abs(shifted - shifted[0]).max() < 1e-6
    deviations = clean[:20_000] - clean[:20_000].mean(0)
    length = np.sqrt((deviations**2).sum(1).mean())
    assert np.linalg.norm(shifted[0]) == pytest.approx(3 * length, rel=1e-5)
    factors = draw(Superposition(**MANY, outlier=50.0)).samples_ND.std(0) / clean.std(0)
    assert sorted(factors) == pytest.approx([1] * 11 + [50], rel=1e-5)


def test_a_block_of_any_size_gives_the_same_bits(monkeypatch):
    settings = Superposition(**SMALL, correlation=0.5, hierarchy=0.3, strengths="exponential")
    expected = draw.__wrapped__(settings)
    monkeypatch.setattr("implicit_em.data.superposition.VALUES", 7 * 30)
    found = draw.__wrapped__(settings)
    assert found.digest() == expected.digest()
    assert np.array_equal(found.samples_ND, expected.samples_ND)


def test_the_same_settings_give_the_same_bits_and_other_seeds_others():
    settings = {**SMALL, "noise": 0.1, "offset": 1.0, "outlier": 9.0, "correlation": 0.2}
    one, again = (draw.__wrapped__(Superposition(**settings)) for _ in range(2))
    other = draw(Superposition(**settings, data_seed=1))
    assert np.array_equal(one.samples_ND, again.samples_ND)
    assert one.digest() == again.digest() != other.digest()
    assert not np.isclose(one.directions_MD, other.directions_MD).any()
    assert (one.strengths_NM != other.strengths_NM).nnz > 100


def test_the_bits_are_those_of_earlier_versions():
    settings = Superposition(**SMALL, frequencies=0.5, correlation=0.2, hierarchy=0.3)
    assert draw(settings).digest() == "441df3d1e30d56bf"


def test_a_setting_leaves_the_random_numbers_of_the_others():
    plain = draw(Superposition(**SMALL))
    for setting in ({"noise": 0.1}, {"offset": 1.0}, {"strengths": "constant"}):
        changed = draw(Superposition(**SMALL, **setting))
        assert np.array_equal(changed.directions_MD, plain.directions_MD)
        assert np.array_equal(changed.strengths_NM.indices, plain.strengths_NM.indices)
    more = draw(Superposition(**{**SMALL, "test_samples": 150}))
    assert np.array_equal(more.samples_ND[:400], plain.samples_ND)


@pytest.mark.parametrize("normalize", ["none", "centre", "standard", "scale", "zca"])
@pytest.mark.parametrize("final", ["test", "validation"])
def test_the_truth_makes_the_samples(normalize, final):
    data = ready(normalize=normalize, final=final, val_size=50, outlier=7.0)
    shift_D = torch.zeros(12, dtype=torch.float64)
    if data.normalizer:
        shift_D = data.normalizer.turned(data.normalizer.mean)
    for truth, samples, count in (
        (data.truth(), data.final_samples()[0], 100 if final == "test" else 50),
        (data.truth(train=True), data.starting_samples(), 250),
    ):
        made = truth.strengths_NM @ truth.directions_MD - shift_D.numpy()
        assert samples.shape == (count, 12)
        assert np.abs(samples.numpy() - made).max() < 2e-5


@pytest.mark.parametrize("normalize", ["none", "centre", "standard", "scale", "zca", "l2"])
def test_outlier_and_normaliser_can_be_undone(normalize):
    truth = ready(normalize=normalize, outlier=30.0).truth()
    clean_MD = ready().truth().directions_MD
    assert truth.undone(truth.directions_MD) == pytest.approx(clean_MD, abs=1e-9)
    rows_KD = np.random.default_rng(0).standard_normal((5, 12))
    seen, undone = rows_KD @ truth.directions_MD.T, truth.undone_rows(rows_KD) @ clean_MD.T
    assert undone == pytest.approx(seen, abs=1e-9)


def test_the_samples_are_exact_sums():
    data = ready()
    truth = data.truth()
    codes_NM, directions_MD = truth.strengths_NM.toarray(), truth.directions_MD
    expected = [
        sum((s * f for s, f in zip(row, directions_MD, strict=True) if s), np.zeros(12))
        for row in codes_NM
    ]
    assert np.array_equal(data.final_samples()[0].numpy(), np.float32(expected))


def test_samples_of_length_one_leave_the_directions():
    data = ready(normalize="l2", features=40, density=0.4)
    truth = data.truth()
    made = truth.strengths_NM @ truth.directions_MD
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    assert np.abs(data.final_samples()[0].numpy() - made).max() < 1e-6


def test_the_truth_counts_what_is_present():
    truth = ready().truth()
    codes_NM = truth.strengths_NM.toarray()
    assert truth.presence_NM.dtype == bool
    assert np.array_equal(truth.presence_NM.toarray(), codes_NM > 0)
    assert truth.l0 == pytest.approx((codes_NM > 0).sum(1).mean())
    assert truth.density == pytest.approx((codes_NM > 0).mean())
    assert (truth.parents_M == -1).all()


def test_writing_to_a_truth_leaves_the_next_one():
    data = ready()
    data.truth().directions_MD[:] = 0
    data.truth().strengths_NM.data[:] = 0
    assert data.truth().directions_MD.any()
    assert data.truth().strengths_NM.data.all()


def test_modules_with_equal_settings_share_their_samples():
    one, other = ready(normalize="scale", seed=1), ready(normalize="scale", seed=2)
    assert one.split("train")[0] is other.split("train")[0]
    assert one.split("train")[0] is not ready(normalize="scale", noise=0.1).split("train")[0]


def test_the_digest_decides_whether_features_are_the_same():
    digest = draw(Superposition(**SMALL)).digest()
    SuperpositionDataModule(**SMALL, digest=digest).prepare_data()
    other = SuperpositionDataModule(**SMALL, data_seed=1, digest=digest)
    with pytest.raises(ConfigError) as refusal:
        other.prepare_data()
    assert str(refusal.value).startswith(f"digest={digest}: ")
    assert draw(other.superposition).digest() in str(refusal.value)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"features": 0}, "features=0: allowed are whole numbers from 1 on"),
        ({"test_samples": True}, "test_samples=True: allowed are whole numbers from 2 on"),
        ({"data_seed": -1}, "data_seed=-1: allowed are whole numbers from 0 on"),
        ({"density": 0}, "density=0: allowed are numbers between 0 and 1"),
        ({"density": "much"}, "density=much: allowed are numbers between 0 and 1"),
        ({"correlation": 1}, "correlation=1: allowed are numbers from 0 on, less than 1"),
        ({"noise": -1}, "noise=-1: allowed are finite numbers from 0 on"),
        ({"outlier": float("nan")}, "outlier=nan: allowed are finite numbers from 0 on"),
        ({"frequencies": 11}, "frequencies=11: allowed are numbers from 0 to 10"),
        ({"strengths": "normal"}, "strengths=normal: allowed are uniform, constant, exponential"),
        ({"unit_norm": "no"}, "unit_norm=no: allowed are true, false"),
        (
            {"density": 0.6, "frequencies": 0.5},
            "density=0.6: with frequencies=0.5 and hierarchy=0.0, allowed are numbers up to 0.5, "
            "where every feature without a parent is present in 50% of the samples",
        ),
        (
            {"density": 0.4, "hierarchy": 0.5},
            "density=0.4: with frequencies=0.0 and hierarchy=0.5, allowed are numbers up to 0.375, "
            "where every feature without a parent is present in 50% of the samples",
        ),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused(setting, reason):
    with pytest.raises(ConfigError) as refusal:
        SuperpositionDataModule(**{**SMALL, **setting})
    assert str(refusal.value) == reason


@pytest.mark.parametrize("size", ["samples", "test_samples", "width"])
def test_what_does_not_fit_into_memory_is_refused_before_it_is_drawn(size):
    with pytest.raises(ConfigError, match="of samples must be held in memory"):
        ready(**{size: 10**12})


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_drawing_takes_about_the_memory_that_is_checked(monkeypatch, noise):
    settings = {"samples": 20_000, "test_samples": 10, "features": 8, "width": 50, "noise": noise}
    tracemalloc.start()
    draw(Superposition(**settings))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0.9 * peak))
    with pytest.raises(ConfigError, match="of samples must be held in memory"):
        ready(**settings)


def test_the_file_has_every_setting_at_its_default(composed):
    data = composed("data=superposition").data
    module = SuperpositionDataModule(**{k: v for k, v in data.items() if k != "_target_"})
    assert module.superposition == Superposition()
    assert set(vars(Superposition())) <= set(data)
    assert module.normalize == "scale"
    noisy = [composed("data=superposition", f"data.noise={noise}") for noise in (0, 1)]
    assert len({RunSpec.of(cfg).fingerprint for cfg in noisy}) == 2
