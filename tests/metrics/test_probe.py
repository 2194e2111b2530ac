import numpy as np
import pytest
from scipy.sparse import issparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from implicit_em.metrics.probe import linear_probe, standardised
from implicit_em.metrics.sparse import WIDE


def clusters(distance, samples=120, classes=3, features=4, seed=0):
    """Samples around one axis a class; train and test split in half."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    points = rng.normal(size=(samples, features)) + distance * np.eye(features)[labels]
    half = samples // 2
    return points[:half], labels[:half], points[half:], labels[half:]


def sparse_features(width, samples=2000):
    """Features of which one in thirty is active, the first ones more often in their class."""
    train, labels, test, test_labels = clusters(3, samples, features=width)
    return np.maximum(train - 1.8, 0), labels, np.maximum(test - 1.8, 0), test_labels


def test_separable_classes_are_read_without_error():
    assert linear_probe(*clusters(distance=20)) == 1.0


def test_is_the_accuracy_on_the_test_half():
    train, train_labels, test, test_labels = clusters(distance=20)
    test_labels = test_labels.copy()
    test_labels[:15] = (test_labels[:15] + 1) % 3
    assert linear_probe(train, train_labels, test, test_labels) == 45 / 60


def test_equals_the_standardised_logistic_regression():
    train, train_labels, test, test_labels = clusters(distance=1.5)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    expected = (pipeline.fit(train, train_labels).predict(test) == test_labels).mean()
    assert 0.5 < expected < 1
    assert linear_probe(train, train_labels, test, test_labels) == expected


def test_the_classifier_of_sparse_features_is_that_of_the_same_features_centred():
    train, labels, test, test_labels = sparse_features(WIDE)
    kept, scaler = standardised(train, test), StandardScaler().fit(train)
    assert all(map(issparse, kept))
    centred = scaler.transform(train), scaler.transform(test)
    exact = LogisticRegression(tol=1e-10, max_iter=10_000)
    found, expected = (exact.fit(a, labels).predict_proba(b) for a, b in (kept, centred))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    accuracy = (expected.argmax(1) == test_labels).mean()
    assert 0.5 < accuracy < 1
    assert linear_probe(train, labels, test, test_labels) == pytest.approx(accuracy, abs=0.01)


@pytest.mark.parametrize("width", [WIDE, WIDE - 1])
def test_only_wide_sparse_features_keep_their_means(width):
    train, _, test, _ = sparse_features(width)
    assert issparse(standardised(train, test)[0]) == (width == WIDE)
    assert not issparse(standardised(train + 1, test)[0])


def test_scale_and_shift_of_the_features_do_not_matter():
    train, train_labels, test, test_labels = clusters(distance=1.5)
    scale, shift = np.array([1e-4, 1.0, 1e4, 10.0]), np.array([0.0, -5.0, 100.0, 1e3])
    expected = linear_probe(train, train_labels, test, test_labels)
    moved = linear_probe(train * scale + shift, train_labels, test * scale + shift, test_labels)
    assert moved == expected


def test_constant_features_do_not_matter():
    train, train_labels, test, test_labels = clusters(distance=1.5)
    expected = linear_probe(train, train_labels, test, test_labels)
    train, test = (np.c_[half, np.zeros(60), np.full(60, 0.1)] for half in (train, test))
    assert linear_probe(train, train_labels, test, test_labels) == expected


def test_a_dead_layer_reads_the_commonest_class():
    train_labels, test_labels = np.array([0, 1, 1, 1]), np.array([1, 0, 1, 0])
    assert linear_probe(np.zeros((4, 3)), train_labels, np.zeros((4, 3)), test_labels) == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("half", [0, 2])
def test_features_that_are_not_finite_are_refused(half, value):
    data = list(clusters(distance=20))
    data[half] = data[half].copy()
    data[half][3, 1] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        linear_probe(*data)


def test_the_number_of_threads_does_not_matter():
    data = clusters(distance=1.5)
    assert linear_probe(*data, threads=1) == linear_probe(*data)
