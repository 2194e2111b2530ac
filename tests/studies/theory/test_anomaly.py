"""Evidence as an anomaly score: the data, the scores, and the share of pairs in the right order."""

from itertools import product

import numpy as np
import pytest
import torch
from helpers.data import SIDE
from scipy import stats
from torchvision.datasets import MNIST

from implicit_em.base.errors import ConfigError
from implicit_em.models import Encoder, Mixture, SparseAutoencoder
from implicit_em_studies.theory.anomaly import (
    WithoutDigit,
    aurocs,
    corrupted,
    fashion,
    fit_references,
    score,
)


def draw(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def test_the_auroc_is_the_share_of_pairs_in_order():
    normal, anomalies = draw(6, 1).round(decimals=1), draw(9, 1).round(decimals=1)
    pairs = [(a > n) + 0.5 * (a == n) for a, n in product(anomalies, normal)]
    found = aurocs(lambda x: {"first": x[:, 0], "less": -x[:, 0]}, normal, {"task": anomalies})
    assert found["first task"] == pytest.approx(float(sum(pairs)) / 54)
    assert found["less task"] == pytest.approx(1 - float(sum(pairs)) / 54), "not flipped"


def test_scores_of_the_derived_model():
    torch.manual_seed(0)
    model, x = Encoder(4, 5).double(), draw(7, 4)
    found = score(model, x, "decay")
    for n, row in enumerate(model(x).detach().numpy()):
        assert found["decay"][n].item() == pytest.approx(-np.log(np.exp(-row).sum()))
        assert found["decay_sum"][n].item() == pytest.approx(row.sum())
        assert found["decay_active"][n].item() == (row > 0).sum()


def test_the_score_of_the_mixture_is_its_likelihood():
    torch.manual_seed(0)
    model, x = Mixture(3, 4).double(), draw(6, 3)
    torch.nn.init.normal_(model.linear.bias)
    weights, means = model.linear.bias.detach().softmax(0).numpy(), model.weight.detach().numpy()
    density = sum(
        weight * stats.multivariate_normal(mean).pdf(x.numpy())
        for weight, mean in zip(weights, means, strict=True)
    )
    constant = 1.5 * np.log(2 * np.pi)
    assert score(model, x)["mixture"].numpy() == pytest.approx(-np.log(density) - constant)


def test_the_score_of_an_autoencoder_is_its_error():
    torch.manual_seed(0)
    model, x = SparseAutoencoder(4, 3).double(), draw(5, 4)
    expected = ((model(x) - x) ** 2).sum(1).detach().numpy()
    assert score(model, x)["sae"].numpy() == pytest.approx(expected)


def test_references_find_what_is_far_away():
    normal = draw(60, 3).float()
    found = aurocs(fit_references(normal, seed=1, units=4), normal, {"far": normal + 5})
    assert found == {"gmm far": 1, "kmeans far": 1, "forest far": 1}


def test_a_digit_is_left_out(small_mnist):
    whole, without, again = (
        WithoutDigit(digit, dataset=MNIST, root=small_mnist) for digit in (None, 3, 3)
    )
    for data in (whole, without, again):
        data.setup()
    assert len(whole.split("train")[0]) == 600
    assert 3 in whole.split("test")[1]
    samples, labels = without.split("train")
    assert samples.shape == ((whole.split("train")[1] != 3).sum(), SIDE * SIDE)
    assert 3 not in labels
    assert 3 not in without.split("test")[1]
    assert without.held_out().shape == ((whole.split("test")[1] == 3).sum(), SIDE, SIDE)
    assert again.split("train")[0] is samples, "modules of one digit share their samples"


def test_corruptions():
    images = draw(8, 12, 12).numpy()
    found = corrupted(images)
    for name, one in found.items():
        assert one.shape == images.shape
        assert 0 <= one.min() < one.max() <= 1, name
        assert (one != images).any((1, 2)).all(), name
    again = corrupted(images)
    assert all((again[name] == one).all() for name, one in found.items())
    assert (found["inversion"] == 1 - images).all()
    hidden = (found["occlusion"] == 0).sum((1, 2))
    assert (hidden == 16).all()
    assert (found["blur"].var((1, 2)) < images.var((1, 2))).all()


def test_images_turn_by_turns_to_the_left_and_to_the_right():
    image = np.zeros((2, 12, 12))
    image[:, :3, 5:7] = 1  # a bar at the top
    columns = (corrupted(image)["rotation"] * np.arange(12)).sum((1, 2))
    columns /= corrupted(image)["rotation"].sum((1, 2))
    assert columns[0] < 5.5 < columns[1]


def test_fashion_mnist_is_read_and_never_downloaded(tmp_path):
    with pytest.raises(ConfigError, match="Dataset not found"):
        fashion(tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 2), ("t10k", 3)):
        header = np.array([0x803, count, 4, 4], dtype=">i4").tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + bytes(16 * count))
        header = np.array([0x801, count], dtype=">i4").tobytes()
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + bytes(count))
    assert fashion(tmp_path).shape == (3, 4, 4)
