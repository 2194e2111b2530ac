"""Normalisers: their statistics, and models that take raw samples in place of normalised ones."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers.models import MODELS, OPTIONS, TIED, mainly
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler, normalize

from implicit_em import models
from implicit_em.models.declarations import declares
from implicit_em.models.linear import TiedLinear
from implicit_em.models.normalizing import Normalized, Normalizer, fit_normalizer, taking_raw

AFFINE = ("centre", "standard", "scale", "zca")
NOT_FOLDED = ("Gated", "GaussianMixture", "KMeans", "Mixture", "NMF", "Pixels", "SpikeSlab")


def draw(count=500, width=9, constant=True):
    """Correlated columns far from 0, of very different scales."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(count, width)) @ rng.normal(size=(width, width))
    samples = (samples + 5) * 10.0 ** np.arange(-4, width - 4)
    if constant:
        samples[:, 3] = 0.1
    return torch.from_numpy(samples)


def fitted(option, samples, size=37):
    return fit_normalizer(option, lambda: samples.split(size))


def test_columns_get_mean_0_and_variance_1():
    x = draw()
    assert torch.allclose(fitted("centre", x)(x), x - x.mean(0), rtol=1e-12)
    found = fitted("standard", x)(x)
    assert np.allclose(found, StandardScaler().fit_transform(x.numpy()), atol=1e-9)
    assert (found[:, 3] == 0).all(), "a column that never varies"


def test_a_scale_is_one_number():
    x = draw()
    normalizer = fitted("scale", x)
    assert normalizer.factor.unique().numel() == 1
    assert normalizer(x).square().mean().item() == pytest.approx(1)


def test_whitening_shrinks_the_covariance_as_scikit_learn_does():
    x = draw(20, constant=False) / 10.0 ** torch.arange(-4, 5)
    factor = fitted("zca", x, size=7).factor
    covariance, shrinkage = ledoit_wolf(x.numpy())
    assert 0 < shrinkage < 1
    assert np.allclose(torch.linalg.inv(factor @ factor), covariance, rtol=1e-9)
    assert torch.allclose(factor, factor.T)


def test_a_sample_is_divided_by_its_length():
    x = draw()
    x[7] = 0
    assert np.allclose(fitted("l2", x)(x), normalize(x.numpy()))


@pytest.mark.parametrize("option", AFFINE)
def test_samples_that_never_vary_become_0(option):
    x = torch.full((10, 4), 0.1, dtype=torch.float64)
    assert (fitted(option, x)(x) == 0).all()


@pytest.mark.parametrize("option", mainly(["l2", *AFFINE], ["l2", "zca"]))
@pytest.mark.parametrize("cls", MODELS + TIED)
def test_a_model_takes_raw_samples_in_place_of_normalised_ones(cls, option):
    torch.manual_seed(3)
    x = draw(constant=False)
    normalizer = fitted(option, x)
    sizes, options = (9,) if cls is models.Pixels else (9, 12), OPTIONS.get(cls, {})
    model, same = (cls(*sizes, **options).double() for _ in range(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand_like(parameter) - 0.3)
    same.load_state_dict(model.state_dict())
    raw = taking_raw(same, normalizer)
    kept = option == "l2" or type(model).__name__ in NOT_FOLDED
    assert isinstance(raw, Normalized) is kept
    energies = model.encode(normalizer(x))
    assert energies.std() > 0
    assert torch.allclose(raw.encode(x), energies, rtol=1e-8, atol=1e-8)
    if isinstance(model, models.SparseAutoencoder):
        expected = normalizer.inverse(model(normalizer(x)))
        assert torch.allclose(raw(x), expected, rtol=1e-8, atol=1e-8)
        assert torch.equal(raw.decode(raw.encode(x)), raw(x))
        if getattr(model, "tied", False):
            assert same.tied is kept
            assert isinstance(same.decoder, TiedLinear) is kept
        return
    assert torch.equal(raw(x), raw.encode(x))
    if declares(model, "decodes"):
        expected = normalizer.inverse(model.reconstruct(normalizer(x)))
        assert torch.allclose(raw.reconstruct(x), expected, rtol=1e-8, atol=1e-8)
    else:
        with pytest.raises(ValueError, match=r"its rows are no decoder; implicit_em\.fit_decoder"):
            raw.reconstruct(x)


def test_a_subclass_that_declares_nothing_keeps_the_normaliser_in_front():
    class Doubled(models.Encoder):
        def forward(self, x):
            return super().forward(x) + x.sum(-1, keepdim=True)

    model, normalizer = Doubled(9, 5).double(), fitted("standard", draw())
    x = draw()
    assert torch.equal(taking_raw(model, normalizer)(x), model(normalizer(x)))
    again = taking_raw(model, normalizer).responsibilities(x)
    assert torch.equal(again, model.responsibilities(normalizer(x)))


@pytest.mark.parametrize("tensors", [(), ((3,),), ((3,), (2,)), ((3,), (3, 2)), ((1, 3), (3,))])
def test_statistics_of_other_shapes_are_refused(tensors):
    make = partial(Normalizer, "zca", *map(torch.ones, tensors))
    with pytest.raises(ValueError, match="normalize=zca: its statistics are of other shapes"):
        make()
    if tensors:
        with pytest.raises(ValueError, match="normalize=l2"):
            Normalizer("l2", torch.ones(3), torch.ones(tensors[-1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", [1.0, 1e9])
@pytest.mark.parametrize("cls", [models.Encoder, models.SparseAutoencoder])
def test_low_precision_does_not_change_what_a_model_gives(cls, level, dtype):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 5))) + level
    model, normalizer = cls(5, 7).to(dtype), fitted("standard", x)
    codes = model.encode(normalizer(x).to(dtype))
    raw = taking_raw(model, normalizer)
    assert isinstance(raw, Normalized) is (level > 1 or dtype == torch.bfloat16)
    assert torch.allclose(raw.encode(x), codes, rtol=0, atol=2e-6)
