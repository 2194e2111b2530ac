import numpy as np
import pytest

from implicit_em_studies.paper import prototypes

SHAPE = (12, 12)


@pytest.fixture(scope="module")
def images():
    """Four smooth classes, a blob each in another corner, and a border that never varies."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:12, :12]
    corners = [(4, 4), (4, 8), (8, 4), (8, 8)]
    blobs = np.stack([np.exp(-((y - a) ** 2 + (x - b) ** 2) / 4) for a, b in corners])
    labels = np.arange(400) % 4
    images = blobs[labels] * rng.uniform(0.5, 1.5, (400, 1, 1)) + 0.02 * rng.random((400, 12, 12))
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0
    return images.reshape(400, -1).astype(np.float32), labels


@pytest.fixture(scope="module")
def targets(images):
    return prototypes.find_prototypes(*images, SHAPE)


def test_rows_that_are_class_means_beat_their_permuted_control(targets):
    numbers = prototypes.describe(-3 * targets.class_means_CD, targets)
    assert numbers["class_mean"] == pytest.approx(1)
    assert numbers["class_mean_control"] < 0.4
    assert numbers["centroid_positive"] == 0
    for measure in ("class_mean", "centroid", "smoothness"):
        assert numbers[f"{measure}_share"] == 1


def test_noise_beats_its_permuted_control_as_often_as_chance(targets):
    noise = np.random.default_rng(1).standard_normal((400, 144))
    # One pool of permutations would put the small rows below it and the shifted ones above.
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((400, 144)) * rng.choice([0.01, 1], (400, 1))
    rows[::2] += 3 * np.abs(rows[::2]).mean(1, keepdims=True)
    for some in (noise, rows):
        numbers = prototypes.describe(some, targets)
        for measure in ("class_mean", "centroid", "smoothness"):
            assert numbers[f"{measure}_share"] == pytest.approx(0.05, abs=0.03)


def test_pixels_that_never_vary_do_not_count(targets):
    rows = np.random.default_rng(1).standard_normal((5, 144))
    elsewhere = np.where(targets.varies_D, rows, 100.0)
    assert not targets.varies_D.all()
    assert prototypes.describe(rows, targets) == prototypes.describe(elsewhere, targets)


def test_smoothness_tells_a_gradient_from_noise_and_a_chessboard():
    y, x = np.mgrid[:12, :12]
    noise = np.random.default_rng(0).standard_normal((12, 12))
    rows = np.stack([x + y, noise, (x + y) % 2, np.ones((12, 12))]).reshape(4, -1).astype(float)
    ramp, random, chessboard, constant = prototypes.smoothness(rows, SHAPE)
    assert ramp > 0.7
    assert abs(random) < 0.2
    assert chessboard < -0.9
    assert constant == 0


def test_the_best_cosine_is_the_largest_in_size_whatever_the_scale():
    targets = np.eye(3)
    assert prototypes.best_cosine(np.array([[0.5, -5.0, 0.5]]), targets) < -0.9
    assert prototypes.best_cosine(np.array([[0.0, 5.0, 0.0]]), targets) == pytest.approx(1)
    assert prototypes.best_cosine(np.array([[1.0, 1.0, 0.0]]), targets) == pytest.approx(0.5**0.5)
    assert prototypes.best_cosine(np.zeros((1, 3)), targets) == 0


def test_purities_read_low_energies_as_responsibility():
    labels = np.repeat([0, 1], 150)
    energies = np.stack([10.0 * labels, np.ones(300)], axis=1)  # low for class 0
    result = prototypes.purities(energies, labels)
    assert result["purity_responsibility"] == 1
    assert result["purity_activation"] == 1
    assert 0.5 < result["purity_chance"] < 0.6, "the commoner of two classes among a hundred"
