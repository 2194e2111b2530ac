"""The linear probe: the accuracy of a linear classifier on the features."""

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from implicit_em.metrics.sparse import compact


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

    Those of wide, sparse layers keep their means, and are sparse arrays: the intercept of a linear
    classifier, which no penalty holds, takes the means up.

    Args:
        train_features: shape ``(N, K)``, an array or, for both sets, a sparse one.
        test_features: shape ``(M, K)``.
    """
    from scipy.sparse import issparse
    from sklearn.preprocessing import StandardScaler

    train, test = compact(train_features, test_features)
    scaler = StandardScaler(with_mean=not issparse(train)).fit(train)
    return scaler.transform(train), scaler.transform(test)
