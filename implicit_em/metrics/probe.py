"""Probes: the accuracy of a linear classifier on all features, or on a handful of units."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from implicit_em.metrics.sparse import compact, entries

SIZES = (1, 2, 5, 10)
"""Numbers of units of ``sparse_probe``."""


def linear_probe(
    train_features: Any,
    train_labels: np.ndarray,
    test_features: Any,
    test_labels: np.ndarray,
    threads: int | None = None,
) -> float:
    """Return the test accuracy, in [0, 1], of a multinomial logistic regression.

    Features are standardised by the training set's mean and deviation; L-BFGS runs until it
    converges (Oursland 2026, arXiv 2601.06478).

    Args:
        train_features: features to fit on, shape ``(N, K)``, an array or, for both sets, a sparse
            one.
        train_labels: classes to fit on, shape ``(N,)``.
        test_features: features to score on, shape ``(M, K)``.
        test_labels: classes to score on, shape ``(M,)``.
        threads: number of threads of the linear algebra; ``None`` for the library's default.

    Raises:
        ValueError: if the features are not finite.
    """
    # Imported here: scikit-learn brings pandas, and a run without the probe needs neither.
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(max_iter=10_000)
    with threadpool_limits(limits=threads):
        train, test = standardised(train_features, test_features)
        classifier.fit(train, train_labels)
        return float(classifier.score(test, test_labels))


def standardised(train_features: Any, test_features: Any) -> tuple[Any, Any]:
    """Return the features of both sets, standardised by the training set's mean and deviation.

    Features of wide, sparse layers keep their means, and are sparse arrays: the intercept of a
    linear classifier, which has no penalty, takes the means up.

    Args:
        train_features: shape ``(N, K)``, an array or, for both sets, a sparse one.
        test_features: shape ``(M, K)``.
    """
    from scipy.sparse import issparse
    from sklearn.preprocessing import StandardScaler

    train, test = compact(train_features, test_features)
    scaler = StandardScaler(with_mean=not issparse(train)).fit(train)
    return scaler.transform(train), scaler.transform(test)


def sparse_probe(
    train_features: Any,
    train_labels: np.ndarray,
    test_features: Any,
    test_labels: np.ndarray,
    sizes: Iterable[int] = SIZES,
) -> dict[int, float]:
    """Return the mean balanced test accuracy of one-vs-rest probes on k units, for each k.

    For each class, the probe takes the k units whose standardised means differ most between the
    class and the rest of the training set. It fits a logistic regression on them with balanced
    class weights, as in Gurnee et al. 2023 (arXiv 2305.01610); Kantamneni et al. 2025 (arXiv
    2502.16681) select units in the same way. They report F1 and the area under the curve. Balanced
    accuracy is the mean of the two recalls: 0.5 for a guess, however rare the class. SAEBench
    estimates it on equal numbers of positives and negatives (Karvonen et al. 2025, arXiv
    2503.09532). The mean is over the classes in both sets; it is NaN if a set has a single class,
    or if they share none.
    """
    if not all(np.isfinite(entries(each)).all() for each in (train_features, test_features)):
        raise ValueError("features must be finite")  # the scaler accepts NaN
    from sklearn.linear_model import LogisticRegression

    train_NK, test_MK = standardised(train_features, test_features)
    accuracies: dict[int, list[float]] = {size: [] for size in sizes}
    several_classes = min(len(np.unique(labels)) for labels in (train_labels, test_labels)) > 1
    for label in np.intersect1d(train_labels, test_labels) if several_classes else ():
        train_N, test_M = train_labels == label, test_labels == label
        class_K, rest_K = (train_NK[some].mean(0, dtype=np.float64) for some in (train_N, ~train_N))
        ranking_K = np.argsort(-np.abs(class_K - rest_K), kind="stable")
        for size, values in accuracies.items():
            units = ranking_K[:size]
            probe = LogisticRegression(class_weight="balanced", tol=1e-6, max_iter=10_000)
            probe.fit(_columns(train_NK, units), train_N)
            hits_M = probe.predict(_columns(test_MK, units)) == test_M
            values.append((hits_M[test_M].mean() + hits_M[~test_M].mean()) / 2)
    return {
        size: float(np.mean(values)) if values else float("nan")
        for size, values in accuracies.items()
    }


def _columns(features_NK: Any, units: np.ndarray) -> np.ndarray:
    """Return some columns of an array, which may be sparse, in float64."""
    columns = features_NK[:, units]
    dense = columns if isinstance(columns, np.ndarray) else columns.toarray()
    return dense.astype(np.float64)
