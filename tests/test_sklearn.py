"""The scikit-learn estimator: its conventions, and that it trains as the project does."""

import pickle

import numpy as np
import pytest
import torch
from helpers.trainers import bare_trainer
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from implicit_em import EncoderModule
from implicit_em.base.errors import NonFiniteLossError
from implicit_em.data import ResidentLoader
from implicit_em.sklearn import ImplicitEM


@pytest.fixture
def digits():
    images, labels = load_digits(return_X_y=True)
    return images / 16, labels


@pytest.fixture
def brief():
    return ImplicitEM(8, max_iter=3, random_state=0)


@parametrize_with_checks([ImplicitEM(max_iter=3)])
def test_it_is_an_estimator(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # else one of the checks is skipped
    check(estimator)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_it_gives_follows_from_its_weights(digits, brief, dtype):
    x = digits[0].astype(dtype)
    energies = brief.fit(x).transform(x)
    bias = brief.encoder_.linear.bias.detach().numpy()
    assert energies.dtype == brief.components_.dtype == dtype
    assert brief.components_.shape == (8, 64)
    np.testing.assert_allclose(energies, np.maximum(x @ brief.components_.T + bias, 0), atol=1e-5)
    likelihoods = np.exp(-energies)
    evidence = likelihoods.sum(1, keepdims=True)
    np.testing.assert_allclose(brief.predict_proba(x), likelihoods / evidence, rtol=1e-5)
    np.testing.assert_allclose(brief.score_samples(x), np.log(evidence[:, 0]), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
def test_its_steps_are_those_of_the_projects_module(digits):
    """A Trainer's, with the same first weights, batches and rate: bit for bit."""
    x = torch.tensor(digits[0], dtype=torch.float32)
    terms = {"lse": "lse", "var": "variance", "tc": "decorrelation", "decay": "decay"}
    weights = dict(zip(terms, (2.0, 0.7, 1.5, 0.1), strict=True))
    given = {f"{term}_weight": weight for term, weight in weights.items()}
    estimator = ImplicitEM(16, **given, max_iter=2, random_state=3).fit(x.numpy())
    loss = {
        term: {"_target_": f"implicit_em.losses.{function}", "weight": weights[term]}
        for term, function in terms.items()
    }
    torch.manual_seed(estimator._seed)
    module = EncoderModule({"in_features": 64, "hidden": 16}, loss)
    loader = ResidentLoader(x, torch.zeros(len(x), dtype=torch.int64), 128, seed=estimator._seed)
    bare_trainer(max_epochs=2).fit(module, loader)
    assert np.array_equal(estimator.components_, module.model.weight.detach().numpy())


def test_a_random_state_gives_the_same_bits_and_leaves_torchs_generator_alone(digits, brief):
    before = torch.get_rng_state()
    first = brief.fit(digits[0]).components_.copy()
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(brief.fit(digits[0]).components_, first)
    assert not np.array_equal(brief.set_params(random_state=1).fit(digits[0]).components_, first)


@pytest.mark.parametrize(("n_jobs", "threads"), [(None, 1), (3, 3)])
def test_it_trains_with_as_many_threads_as_asked_for(digits, brief, monkeypatch, n_jobs, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    numbers = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    brief.set_params(n_jobs=n_jobs).partial_fit(digits[0])
    assert numbers == [threads, 5]


@pytest.mark.parametrize("l0", [None, 2])
def test_partial_fits_are_the_epochs_of_a_fit_also_after_pickling(digits, brief, l0):
    brief.set_params(l0=l0)
    fitted = ImplicitEM(**brief.get_params()).fit(digits[0])
    for epoch in range(3):
        brief.partial_fit(digits[0])
        assert brief.n_iter_ == epoch + 1
        brief = pickle.loads(pickle.dumps(brief))
    assert fitted.n_iter_ == 3
    assert np.array_equal(brief.components_, fitted.components_)


def test_partial_fit_takes_the_rate_of_today(digits, brief):
    before = brief.partial_fit(digits[0]).components_.copy()
    brief.set_params(lr=1e-30).partial_fit(digits[0])
    np.testing.assert_allclose(brief.components_, before, rtol=0, atol=1e-20)


def test_l0_is_the_number_of_active_components(digits):
    active = {}
    for l0 in (None, 3):
        model = ImplicitEM(16, l0=l0, lr=1e-2, max_iter=25, batch_size=64, random_state=0)
        active[l0] = (model.fit_transform(digits[0]) > 0).sum(1).mean()
    assert active[3] == pytest.approx(3, rel=0.2)
    assert active[None] > 4


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"n_components": 0}, "n_components == 0"),
        ({"batch_size": 1}, "batch_size == 1"),
        ({"max_iter": 0}, "max_iter == 0"),
        ({"tc_weight": -1}, "tc_weight == -1"),
        ({"decay_weight": -1}, "decay_weight == -1"),
        ({"lr": 0}, "lr == 0"),
        ({"l0": 0}, "l0 == 0"),
        ({"l0": 9}, "l0 == 9, must be <= 8"),
        ({"l0": float("nan")}, "l0 == nan, must be finite"),
        ({"l0": 2, "lse_weight": 0}, "l0 == 2, needs lse_weight above 0"),
        ({"lse_weight": float("inf")}, "lse_weight == inf, must be finite"),
        ({"lr": float("nan")}, "lr == nan, must be finite"),
        ({"n_jobs": 0}, "n_jobs == 0"),
        (dict.fromkeys(("lse_weight", "var_weight", "tc_weight"), 0), "at least one term"),
    ],
)
def test_a_wrong_parameter_is_named(digits, brief, parameters, reason):
    for train in (brief.fit, brief.partial_fit):
        with pytest.raises(ValueError, match=reason):
            brief.set_params(**parameters) and train(digits[0])


def test_what_is_refused_has_fitted_nothing(digits, brief):
    with pytest.raises(ValueError, match="n_jobs == 0"):
        brief.set_params(n_jobs=0).fit(digits[0])
    with pytest.raises(NotFittedError):
        brief.transform(digits[0])


def test_going_on_with_another_number_of_components_is_refused(digits, brief):
    brief.fit(digits[0]).set_params(n_components=9)
    with pytest.raises(ValueError, match="n_components == 9, but 8 are trained; fit begins anew"):
        brief.partial_fit(digits[0])
    brief.set_params(n_components=8, l0=2.7)
    with pytest.raises(ValueError, match=r"l0 == 2\.7, but None is trained for; fit begins anew"):
        brief.partial_fit(digits[0])
    brief.fit(digits[0]).partial_fit(digits[0])


@pytest.mark.parametrize("l0", [None, 2])
def test_a_diverging_epoch_keeps_the_weights_before_it(digits, brief, l0):
    brief.set_params(l0=l0, max_iter=3)
    before = brief.fit(digits[0]).components_.copy()
    with pytest.raises(NonFiniteLossError, match=r"lr=0\.001.*epoch 4;.*epoch's start"):
        brief.partial_fit(1e300 * digits[0])
    assert np.array_equal(brief.components_, before)
    assert brief.n_iter_ == 3
    undisturbed = clone(brief).fit(digits[0]).partial_fit(digits[0])
    brief.partial_fit(digits[0])
    assert np.array_equal(brief.components_, undisturbed.components_), "the optimizer's state too"
