"""The linear probe: the accuracy of a linear classifier on the features."""

import numpy as np
from threadpoolctl import threadpool_limits


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    threads: int | None = None,
) -> float:
    """Return the test accuracy, in [0, 1], of a multinomial logistic regression.

    Features are standardised by the training set's mean and deviation; L-BFGS runs until it
    converges (Oursland 2026, arXiv 2601.06478).

    Args:
        train_features: features to fit on, shape ``(N, K)``.
        train_labels: classes to fit on, shape ``(N,)``.
        test_features: features to score on, shape ``(M, K)``.
        test_labels: classes to score on, shape ``(M,)``.
        threads: number of threads of the linear algebra; ``None`` for the library's default.

    Raises:
        ValueError: if the features are not finite.
    """
    # Imported here: scikit-learn brings pandas, and a run without the probe needs neither.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    with threadpool_limits(limits=threads):
        classifier.fit(train_features, train_labels)
        return float(classifier.score(test_features, test_labels))
