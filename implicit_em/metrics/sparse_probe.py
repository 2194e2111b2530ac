"""The k-sparse probe: the accuracy of a linear classifier on a handful of units."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from implicit_em.metrics.probe import standardised
from implicit_em.metrics.sparse import entries

SIZES = (1, 2, 5, 10)


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
    # Imported here, as in ``linear_probe``.
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
