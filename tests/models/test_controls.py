"""The controls: classics that are fitted, and models as they start."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from helpers.draws import draw
from sklearn import cluster, decomposition, mixture
from torch.testing import assert_close

from implicit_em import load
from implicit_em.models import ICA, NMF, PCA, GaussianMixture, KMeans, classical


@pytest.fixture(scope="module")
def x():
    """Non-negative mixtures of six parts, with a little noise; the last input never varies."""
    rng = np.random.default_rng(0)
    parts = rng.random((6, 12)) * (rng.random((6, 12)) > 0.5)
    codes = rng.exponential(size=(400, 6)) * (rng.random((400, 6)) > 0.4)
    x = codes @ parts + 0.01 * rng.random((400, 12))
    x[:, -1] = 0
    return torch.from_numpy(x).float()


def fitted(cls, x, hidden=6):
    torch.manual_seed(0)
    model = cls(x.shape[1], hidden)
    model.start(x)
    return model.requires_grad_(False)


def test_principal_components_are_scikit_learns(x):
    model = fitted(PCA, x)
    expected = decomposition.PCA(6).fit(x.numpy())
    assert_close(model.encode(x).numpy(), expected.transform(x.numpy()), rtol=1e-3, atol=1e-4)
    recovered = expected.inverse_transform(expected.transform(x.numpy()))
    assert_close(model(x).numpy(), recovered, rtol=1e-3, atol=1e-4)


def test_independent_components_have_unit_variance_and_no_correlation(x):
    model = fitted(ICA, x)
    codes = model.encode(x)
    assert_close(codes.T.cov(), torch.eye(6), rtol=1e-3, atol=1e-3)
    assert_close(codes.mean(0), torch.zeros(6), rtol=0, atol=1e-4)
    assert_close(model(x), fitted(PCA, x)(x), rtol=1e-2, atol=1e-3)


def test_independent_components_of_gaussian_samples_are_still_a_rotation():
    """There are no components to find: the steps of FastICA are noise, and nearly singular."""
    x = draw(1000, 256, dtype=torch.float32)
    model = fitted(partial(ICA, iterations=3), x, 256)
    assert_close(model(x), x, rtol=0, atol=1e-4)
    assert_close(model.encode(x).T.cov(), torch.eye(256), rtol=0, atol=1e-4)


def test_factors_are_not_negative_and_codes_are_the_best_for_them(x):
    model = fitted(NMF, x)
    codes = model.encode(x)
    assert codes.min() == 0
    assert model.decoder.weight.min() >= 0
    assert_close(model.decoder.weight.norm(dim=0), torch.ones(6))
    assert (model(x) - x).square().mean() < 1e-3
    # No better code: the slope is 0 where a code is positive, and never negative.
    slope = (model(x) - x) @ model.decoder.weight
    assert slope.min() > -1e-4
    assert (slope * codes).abs().max() < 1e-3


def test_k_means_says_how_much_closer_than_average_a_centre_is(x):
    model = fitted(KMeans, x)
    distances = torch.cdist(x, model.weight)
    found = distances.square().amin(1).sum()
    expected = cluster.KMeans(6, n_init=5, random_state=0).fit(x.numpy()).inertia_
    assert found < 1.2 * expected
    codes = model(x)
    assert torch.equal(codes.argmax(1), distances.argmin(1))
    assert ((codes > 0) == (distances < distances.mean(1, keepdim=True))).all()


def test_responsibilities_of_a_mixture_are_its_posterior(x, monkeypatch):
    monkeypatch.setattr(classical, "_seed", lambda: 0)
    model = fitted(GaussianMixture, x)
    expected = mixture.GaussianMixture(6, covariance_type="diag", reg_covar=0.01, random_state=0)
    posterior = torch.from_numpy(expected.fit(x.numpy()).predict_proba(x.numpy())).float()
    assert_close(model.responsibilities(x), posterior, rtol=1e-3, atol=1e-4)
    log_likelihood = (-model(x)).logsumexp(1).mean()
    assert float(log_likelihood) == pytest.approx(expected.score(x.numpy()), rel=1e-4)


@pytest.mark.parametrize(("name", "units"), [("pixels", 64), ("nmf", 5), ("gmm", 5)])
def test_controls_are_measured_as_what_is_trained_is(name, units, command_line, small, tmp_path):
    chosen = [option for option in small if "max_epochs" not in option]
    options = [option for option in chosen if name != "pixels" or "hidden" not in option]
    assert not command_line(*options, f"model={name}", f"hydra.run.dir={tmp_path}/run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["status"], metrics["epochs"], metrics["final_loss"]) == ("completed", 0, None)
    assert metrics["probe_accuracy"] > 0.5
    assert name != "pixels" or metrics["transpose_reconstruction_mse"] < 1e-10
    assert load(tmp_path / "run").weight.shape == (units, 64)
