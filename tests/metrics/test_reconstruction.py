import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from implicit_em.metrics import reconstruction, sparse
from implicit_em.metrics.reconstruction import (
    chosen_ridge_decoder,
    fvu,
    fvu_of,
    least_squares_decoder,
    least_squares_fvu,
    ridge_decoder,
)

N, D = 300, 9
FLOATS = arrays(np.float64, (6, 3), elements=st.integers(-50, 50))


@pytest.fixture
def x():
    """Correlated inputs on a level, float32; the last feature is constant."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, D)) @ rng.standard_normal((D, D)) + 3
    x[:, -1] = 0.1
    return x.astype(np.float32)


@pytest.fixture
def activations(x):
    """Four units that keep a part of the inputs."""
    return (x @ np.random.default_rng(1).standard_normal((D, 4)).astype(np.float32)).clip(0)


def reference(activations, x, test_activations, test_x):
    """By lstsq with a column of ones."""
    ones = [np.c_[a.astype(float), np.ones(len(a))] for a in (activations, test_activations)]
    weight = np.linalg.lstsq(ones[0], x.astype(float))[0]
    residual = test_x - ones[1] @ weight
    return np.square(residual).sum() / np.square(test_x - test_x.mean(0, dtype=float)).sum()


def test_by_hand():
    x = np.array([[0, 0], [2, 0], [4, 6]])  # about the means (2, 2): 8 + 24
    assert fvu(x, x + np.array([[1, 0], [0, 1], [0, -2]])) == 6 / 32


@given(FLOATS)
def test_the_mean_leaves_all_unexplained_and_the_input_nothing(x):
    if np.ptp(x, axis=0).any():
        assert fvu(x, np.broadcast_to(x.mean(0), x.shape)) == pytest.approx(1)
        assert fvu(x, x) == 0


@given(FLOATS, FLOATS, st.integers(-20, 20).filter(bool), st.integers(-9, 9))
def test_scale_and_level_do_not_matter(x, guess, scale, level):
    if np.ptp(x, axis=0).any():
        moved = fvu(scale * x + level, scale * guess + level)
        assert moved == pytest.approx(fvu(x, guess), rel=1e-9)


def test_nothing_to_explain_is_not_a_number():
    x = np.full((5, 3), 0.1, dtype=np.float32)
    assert np.isnan(fvu(x, x))


def test_sums_are_in_float64_and_blocks_do_not_matter(x, monkeypatch):
    far = (x + 4000).astype(np.float32)
    guess = far + np.float32(1e-3)
    exact, mean = far.astype(float), far.mean(0, dtype=float)
    expected = np.square(exact - guess).sum() / np.square(exact - mean).sum()
    assert fvu(far, guess) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(reconstruction, "BLOCK", 7)
    assert fvu(far, guess) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("block", [7, 4096])
def test_the_decoder_is_that_of_least_squares(x, activations, block, monkeypatch):
    monkeypatch.setattr(reconstruction, "BLOCK", block)
    halves = activations[:200], x[:200], activations[200:], x[200:]
    assert 0.1 < reference(*halves) < 0.9
    assert least_squares_fvu(*halves) == pytest.approx(reference(*halves), rel=1e-9)


def test_dead_constant_and_doubled_units_do_not_matter(x, activations):
    halves = activations[:200], x[:200], activations[200:], x[200:]
    expected = least_squares_fvu(*halves)
    more = [
        np.c_[half, np.zeros(len(half)), np.full(len(half), 0.1), half[:, :2], 3 * half.sum(1)]
        for half in (halves[0], halves[2])
    ]
    assert least_squares_fvu(more[0], x[:200], more[1], x[200:]) == pytest.approx(expected)


def test_scales_levels_and_mixing_of_the_units_do_not_matter(x, activations):
    expected = least_squares_fvu(activations, x, activations, x)
    activations = activations.astype(float)
    moved = activations * [1e-6, 1.0, 1e5, -10] + [5, 0, 1e3, 7]
    assert least_squares_fvu(moved, x, moved, x) == pytest.approx(expected, rel=1e-6)
    mixed = activations @ np.random.default_rng(2).standard_normal((4, 4))
    assert least_squares_fvu(mixed, x, mixed, x) == pytest.approx(expected, rel=1e-9)


def test_a_dead_layer_predicts_the_mean(x):
    weight, bias = least_squares_decoder(np.zeros((N, 3), np.float32), x)
    assert not weight.any()
    assert bias == pytest.approx(x.mean(0, dtype=float))
    assert least_squares_fvu(np.zeros((N, 3)), x, np.ones((N, 3)), x) == pytest.approx(1)


def test_more_units_than_samples_take_the_smallest_weights(x):
    wide = np.random.default_rng(1).standard_normal((20, 50))
    weight, bias = least_squares_decoder(wide, x[:20])
    assert fvu(x[:20], wide @ weight + bias) < 1e-12
    assert np.abs(weight).max() < 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(x, activations, value):
    for broken in (x, activations):
        broken = broken.copy()
        broken[3, 1] = value
        with pytest.raises(ValueError, match="must be finite"):
            least_squares_decoder(*((broken, x) if broken.shape[1] == 4 else (activations, broken)))


def pairs(activations, x, block=64, dtype=torch.float64):
    blocks = [torch.tensor(array, dtype=dtype).split(block) for array in (activations, x)]
    return list(zip(*blocks, strict=True))


def wide_ridge_decoder(pairs, ridge, own=None):
    return ridge_decoder(pairs, ridge, own, wide=True)


def by_active_entries(pairs, ridge, own=None):
    """``ridge_decoder`` as it treats a wide, sparse layer, in larger blocks of uneven sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction, "BLOCK", 100)
        for name in ("WIDE", "SPARSE"):
            patch.setattr(sparse, name, 1)
        return ridge_decoder(pairs, ridge, own)


@pytest.mark.parametrize("ridge", [1e-3, 0.7])
@pytest.mark.parametrize("solve", [ridge_decoder, wide_ridge_decoder])
def test_the_ridge_of_units_that_all_samples_activate_is_that_of_standardised_ones(
    x, activations, solve, ridge
):
    active = activations + 0.1
    more = np.c_[active, np.zeros(N), np.full(N, 0.1), 1e3 + 1e-3 * activations[:, 0]]
    weight, bias = solve(pairs(more, x), ridge)
    reference = make_pipeline(StandardScaler(), Ridge(ridge * N)).fit(more.astype(float), x)
    assert more @ weight.numpy() + bias.numpy() == pytest.approx(reference.predict(more), abs=1e-5)
    assert not weight[4:6].any()


@pytest.mark.parametrize("solve", [ridge_decoder, wide_ridge_decoder, by_active_entries])
def test_units_are_scaled_by_the_samples_that_activate_them(x, solve):
    random = np.random.default_rng(2)
    codes = random.exponential(size=(N, 6)) * (
        random.random((N, 6)) < [0.01, 0.03, 0.1, 0.5, 0.9, 1]
    )
    codes[:, 0] = 0
    codes[7, 0] = 1e-3  # once, and hardly
    weight, bias = solve(pairs(codes, x), 1e-2)
    moved = codes - codes.mean(0)
    of_active = [np.mean(unit[code != 0] ** 2) for unit, code in zip(moved.T, codes.T, strict=True)]
    scaled = moved / np.sqrt(np.maximum(of_active, moved.var(0)))
    reference = Ridge(1e-2 * N).fit(scaled, x)
    assert codes @ weight.numpy() + bias.numpy() == pytest.approx(
        reference.predict(scaled), abs=1e-8
    )
    level = np.r_[np.zeros(5), 3.0]  # of the one that is always active
    again, _ = solve(pairs(codes * [1e-3, 1, 10, 1e3, 1, 1] + level, x), 1e-2)
    assert again.numpy() == pytest.approx(weight.numpy() / [[1e-3], [1], [10], [1e3], [1], [1]])


def test_a_unit_that_one_sample_activates_is_shrunk(x):
    codes = np.zeros((N, 1))
    codes[5] = 1e-3
    for solve in (ridge_decoder, wide_ridge_decoder, by_active_entries):
        weight, _ = solve(pairs(codes, x), 4 / N)  # as much as four activations
        explained = codes[5] @ weight.numpy()
        assert explained == pytest.approx((x[5] - x.mean(0)) / 5, rel=0.02, abs=1e-7)


def test_more_units_than_samples_have_one_ridge_decoder_by_either_matrix(x):
    wide = np.random.default_rng(1).standard_normal((20, 50))
    found = [solve(pairs(wide, x[:20], 7), 1e-3) for solve in (ridge_decoder, wide_ridge_decoder)]
    for tall, broad in zip(*found, strict=True):
        assert torch.allclose(tall, broad, rtol=1e-8)


def test_a_wide_sparse_layer_is_multiplied_by_its_active_entries(x, monkeypatch):
    random = np.random.default_rng(3)
    codes = random.exponential(size=(N, 2_000)) * (random.random((N, 2_000)) < 0.02)
    codes[:, 0], codes[:, 1] = 0, 0.1  # units that are silent and constant
    by_entries = ridge_decoder(pairs(codes.astype(np.float32), x, dtype=torch.float32), 1e-3)
    monkeypatch.setattr(sparse, "SPARSE", 0)
    dense = ridge_decoder(pairs(codes.astype(np.float32), x), 1e-3)
    for found, expected in zip(by_entries, dense, strict=True):
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert not by_entries[0][:2].any()
    monkeypatch.setattr(sparse, "SPARSE", 0.01)
    monkeypatch.setattr(reconstruction, "_larger_blocks", None)
    ridge_decoder(pairs(codes, x), 1e-3)


def test_the_ridge_decoder_of_float32_on_a_level_is_that_of_float64(x, activations):
    far = (activations + 100).astype(np.float32)
    weight, _ = ridge_decoder(pairs(far, x), 1e-3)
    assert torch.allclose(
        ridge_decoder(pairs(far, x, 64, torch.float32), 1e-3)[0], weight, atol=1e-6
    )


def test_activations_that_are_not_finite_have_no_ridge_decoder(x, activations):
    activations[3, 1] = np.inf
    weight, bias = ridge_decoder(pairs(activations, x), 1e-3)
    assert np.isnan(fvu_of((b, a @ weight + bias) for a, b in pairs(activations, x)))


def squared_error(decoder, blocks):
    weight, bias = decoder
    return sum((x - a @ weight - bias).square().sum().item() for a, x in blocks)


@pytest.mark.parametrize("solve", [ridge_decoder, wide_ridge_decoder, by_active_entries])
def test_the_ridge_shrinks_the_difference_from_the_own_decoder(x, activations, solve):
    codes = np.c_[activations, np.zeros(N)]
    own = torch.randn(5, D, dtype=torch.float64), torch.randn(D, dtype=torch.float64)
    rest = x - codes @ own[0].numpy()
    weight, bias = solve(pairs(codes, x), 0.1, own)
    of_rest, bias_of_rest = solve(pairs(codes, rest), 0.1)
    assert torch.allclose(weight, own[0] + of_rest, atol=1e-6)
    assert torch.allclose(bias, bias_of_rest, atol=1e-5)
    assert torch.equal(weight[4], own[0][4]), "a unit that never fires keeps its own direction"


@pytest.mark.parametrize("wide", [False, True])
def test_rare_units_are_not_shrunk_from_an_own_decoder_that_is_right(wide):
    random = np.random.default_rng(0)
    rows = random.standard_normal((400, 40))
    codes = random.exponential(size=(4000, 400)) * (random.random((4000, 400)) < 0.003)
    x = codes @ rows + 0.3 * random.standard_normal((4000, 40))
    fit, held = pairs(codes[:3000], x[:3000]), pairs(codes[3000:], x[3000:])
    own = torch.tensor(rows), torch.zeros(40, dtype=torch.float64)
    shrunk = ridge_decoder(fit, 1e-3, wide=wide)  # as much as 3 activations; a unit has 9
    assert squared_error(shrunk, held) > 1.5 * squared_error(own, held)
    chosen, ridge = chosen_ridge_decoder(lambda: fit, lambda: held, own, wide)
    assert squared_error(chosen, held) <= squared_error(own, held)
    assert ridge > 1e-3


@given(FLOATS, FLOATS, FLOATS, FLOATS, st.booleans())
def test_the_chosen_decoder_is_never_worse_than_the_own_one(codes, x, weight, more, wide):
    own = torch.tensor(weight[:3]), torch.tensor(weight[3])
    fit, held = pairs(codes[:4], x[:4], 2), pairs(codes[4:], more[4:], 1)
    chosen, _ = chosen_ridge_decoder(lambda: fit, lambda: held, own, wide)
    assert squared_error(chosen, held) <= squared_error(own, held)
    refitted, ridge = chosen_ridge_decoder(lambda: fit + held, None, own, wide)
    limit = squared_error(own, fit + held)
    assert squared_error(refitted, fit + held) <= limit * (1 + 1e-6) + 1e-6, ridge
