import numpy as np
import pytest
import torch

from implicit_em.metrics.densities import density
from implicit_em.metrics.dictionaries import coherence
from implicit_em.metrics.quality import Encoded, quality
from implicit_em.metrics.reconstruction import fvu
from implicit_em.models import SparseAutoencoder

D, K, CLASSES = 12, 8, 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SparseAutoencoder(D, K).requires_grad_(False)


@pytest.fixture
def sets(model):
    """Training and test set: noisy patterns, a feature that never varies, and a dead unit."""
    model.encoder.linear.bias[0] = -100
    rng = np.random.default_rng(0)
    patterns = rng.random((CLASSES, D))
    sets = []
    for samples in (300, 150):
        labels = rng.integers(CLASSES, size=samples)
        x = (patterns[labels] + 0.1 * rng.random((samples, D))).astype(np.float32)
        x[:, 0] = 0
        sets.append(Encoded(x, labels, model.encode(torch.tensor(x)).numpy()))
    return sets


def test_all_measurements_of_one_encoder_by_name(model, sets):
    train, test = sets
    weight, decoder = model.weight.numpy(), model.decoder.weight.numpy().T
    guess = model(torch.tensor(test.x_ND)).numpy()
    result = quality(train, test, weight, decoder, guess, threads=1)
    assert all(isinstance(value, float | int) for value in result.values())
    assert result["exact_density"] == density(test.activations_NK)
    assert result["relative_density"] <= result["exact_density"]
    assert sum(value for key, value in result.items() if key.startswith("units_")) == K
    silent = (test.activations_NK == 0).all(0).sum()
    assert result["units_dead"] == result["silent_units"] == silent > 0
    assert result["dead_units"] == (test.activations_NK.var(0, ddof=1) < 0.01).sum()
    assert result["fvu"] == fvu(test.x_ND, guess) > 1 > result["least_squares_fvu"] > 0
    assert result["probe_accuracy"] == result["sparse_probe_10"] == 1
    assert 0.5 < result["sparse_probe_1"] <= 1
    assert 1 / CLASSES < result["class_purity"] < 1
    assert result["encoder_coherence_max"] == coherence(weight[:, 1:])[1]
    assert result["decoder_coherence_mean"] == coherence(decoder)[0]


def test_what_an_encoder_lacks_is_none_under_the_same_names(model, sets):
    weight, decoder = model.weight.numpy(), model.decoder.weight.numpy().T
    full = quality(*sets, weight, decoder, sets[1].x_ND)
    bare = quality(*sets)
    assert list(bare) == list(full)
    missing = {key for key, value in bare.items() if value is None}
    assert missing == {"fvu"} | {key for key in full if "coherence" in key}
    assert all(full[key] == bare[key] for key in full.keys() - missing)


def test_a_dead_encoder_has_no_purity_and_its_probes_guess(sets):
    train, test = (
        Encoded(s.x_ND, s.labels_N, np.zeros((len(s.x_ND), K), np.float32)) for s in sets
    )
    result = quality(train, test)
    assert result["units_dead"] == result["dead_units"] == result["silent_units"] == K
    assert result["exact_density"] == 0
    assert result["class_purity"] is None
    assert result["least_squares_fvu"] == pytest.approx(1, abs=0.01)
    assert result["sparse_probe_5"] == 0.5


def test_a_single_class_leaves_nothing_to_probe(sets):
    train, test = (Encoded(s.x_ND, np.zeros(len(s.x_ND)), s.activations_NK) for s in sets)
    result = quality(train, test)
    assert result["probe_accuracy"] is result["sparse_probe_1"] is None
    assert result["class_purity"] == pytest.approx(1)
