"""The linear probe on all features, and the sparse one on a few of them."""

import numpy as np
import pytest
from scipy.sparse import issparse
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from implicit_em.metrics.probe import SIZES, linear_probe, sparse_probe, standardised
from implicit_em.metrics.sparse import WIDE

BOTH = pytest.mark.parametrize("probe", [linear_probe, sparse_probe])


def clusters(distance, classes=4, features=12, samples=400, seed=0):
    """Unit j speaks for class j; the rest are noise. Train and test split in half."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    points = rng.normal(size=(samples, features)) + distance * np.eye(classes, features)[labels]
    half = samples // 2
    return points[:half], labels[:half], points[half:], labels[half:]


def sparse_features(width, samples=2000):
    """Features of which one in thirty is active, the first ones more often in their class."""
    train, labels, test, test_labels = clusters(3, 3, width, samples)
    return np.maximum(train - 1.8, 0), labels, np.maximum(test - 1.8, 0), test_labels


@BOTH
def test_scale_and_level_of_the_features_do_not_matter(probe):
    train, train_labels, test, test_labels = clusters(distance=1.5)
    rng = np.random.default_rng(1)
    scale, level = 10.0 ** rng.integers(-4, 5, 12), 10.0 ** rng.integers(0, 4, 12)
    expected = probe(train, train_labels, test, test_labels)
    moved = probe(train * scale + level, train_labels, test * scale + level, test_labels)
    assert moved == (expected if probe is linear_probe else pytest.approx(expected))


@BOTH
def test_dead_and_constant_features_do_not_matter(probe):
    train, train_labels, test, test_labels = clusters(distance=1.5)
    expected = probe(train, train_labels, test, test_labels)
    more = [np.c_[np.zeros(200), np.full(200, 0.1), half] for half in (train, test)]
    assert probe(more[0], train_labels, more[1], test_labels) == expected


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("half", [0, 2])
def test_features_that_are_not_finite_are_refused(probe, half, value):
    data = list(clusters(distance=1.5))
    data[half][3, 1] = value
    with pytest.raises(ValueError, match=r"NaN|infinity|must be finite"):
        probe(*data)


# --- all features


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


def test_a_dead_layer_reads_the_commonest_class():
    train_labels, test_labels = np.array([0, 1, 1, 1]), np.array([1, 0, 1, 0])
    assert linear_probe(np.zeros((4, 3)), train_labels, np.zeros((4, 3)), test_labels) == 0.5


def test_the_number_of_threads_does_not_matter():
    data = clusters(distance=1.5)
    assert linear_probe(*data, threads=1) == linear_probe(*data)


# --- a few


def by_hand(train, train_labels, test, test_labels, size):
    """One against the rest by scikit-learn's own parts."""

    def difference(features, of_class):
        return np.abs(features[of_class].mean(0) - features[~of_class].mean(0))

    scores = []
    for label in np.unique(train_labels):
        probe = make_pipeline(
            StandardScaler(),
            SelectKBest(difference, k=size),
            LogisticRegression(class_weight="balanced", tol=1e-10),
        )
        probe.fit(train, train_labels == label)
        scores.append(balanced_accuracy_score(test_labels == label, probe.predict(test)))
    return np.mean(scores)


def test_a_class_that_two_units_share_needs_both():
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (400, 2))
    labels = 1 + (signs[:, 0] + 2 * signs[:, 1]).astype(int)
    result = sparse_probe(signs[:200], labels[:200], signs[200:], labels[200:], sizes=[1, 2])
    assert 0.7 < result[1] < 0.9
    assert result[2] == 1


@pytest.mark.parametrize("size", [1, 2, 5])
def test_equals_the_selection_and_regression_of_scikit_learn(size):
    data = clusters(distance=1.5)
    expected = by_hand(*data, size)
    assert 0.6 < expected < 0.95
    assert sparse_probe(*data, sizes=[size])[size] == pytest.approx(expected, abs=1e-12)


def test_wide_sparse_features_give_the_same_accuracies():
    data = sparse_features(WIDE, samples=400)
    assert issparse(standardised(data[0], data[2])[0])
    expected = by_hand(*data, 5)
    assert 0.6 < expected < 0.95
    assert sparse_probe(*data, sizes=[5])[5] == pytest.approx(expected, abs=1e-12)


def test_labels_that_say_nothing_give_a_half_however_rare_the_class():
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=4000, p=[0.9, 0.07, 0.03])
    points = rng.normal(size=(4000, 6))
    result = sparse_probe(points[:2000], labels[:2000], points[2000:], labels[2000:])
    assert list(result.values()) == pytest.approx([0.5] * 4, abs=0.04)


def test_a_dead_layer_guesses():
    _, train_labels, _, test_labels = clusters(distance=1)
    dead = np.zeros((200, 3), dtype=np.float32)
    assert sparse_probe(dead, train_labels, dead, test_labels) == dict.fromkeys(SIZES, 0.5)


def test_beyond_all_units_there_is_no_more_to_take():
    train, train_labels, test, test_labels = clusters(distance=1.5, features=4)
    result = sparse_probe(train, train_labels, test, test_labels, sizes=[4, 10])
    assert result[4] == result[10]


def test_more_units_than_samples():
    train, train_labels, test, test_labels = clusters(distance=20, features=900)
    assert sparse_probe(train, train_labels, test, test_labels)[1] == 1


def test_a_class_that_one_set_lacks_is_left_out():
    train, train_labels, test, test_labels = clusters(distance=1.5)
    kept = test_labels < 3
    result = sparse_probe(train, train_labels, test[kept], test_labels[kept], sizes=[2])
    assert 0.6 < result[2] < 1


@pytest.mark.parametrize("half", [1, 3])
def test_a_single_class_leaves_nothing_to_tell_apart(half):
    data = list(clusters(distance=1.5))
    data[half] = np.zeros(200, dtype=int)
    assert np.isnan(list(sparse_probe(*data).values())).all()
