"""Experiment 5, features: whether the weight rows are prototypes of the data, or noise.

The control of a row is the same row with its pixels permuted: it has the same values, and no
structure. Only pixels that vary over the images are used. The others keep their initial weight in
every model.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from implicit_em.metrics.purity import top_classes, top_purity

CENTROIDS = 64
PERMUTATIONS = 200
PERCENTILE = 95


@dataclass(frozen=True)
class Prototypes:
    """Class means and k-means centroids of images, both without the mean image."""

    class_means_CD: np.ndarray
    centroids_CD: np.ndarray
    varies_D: np.ndarray  # whether a pixel takes more than one value
    sample_shape: tuple[int, ...]


def find_prototypes(
    images_ND: np.ndarray, labels_N: np.ndarray, sample_shape: tuple[int, ...]
) -> Prototypes:
    """Return the class means and k-means centroids (k = 64) of images.

    The mean image is subtracted: all classes share it, and a row's bias absorbs it.
    """
    mean_D = images_ND.mean(0)
    classes = np.unique(labels_N)
    means_CD = np.stack([images_ND[labels_N == label].mean(0) for label in classes])
    clusters = min(CENTROIDS, len(images_ND))
    with threadpool_limits(limits=1):
        kmeans = KMeans(clusters, n_init=1, random_state=0).fit(images_ND)
    return Prototypes(
        means_CD - mean_D,
        kmeans.cluster_centers_ - mean_D,
        images_ND.min(0) < images_ND.max(0),
        sample_shape,
    )


def best_cosine(rows_KD: np.ndarray, targets_CD: np.ndarray) -> np.ndarray:
    """Return each row's cosine of largest size with a target, shape ``(K,)``.

    A negative cosine means a low energy on what the target shows: the component explains it. A
    positive cosine means a high energy: the component detects it.
    """
    cosines_KC = normalize(rows_KD) @ normalize(targets_CD).T
    best_K1 = np.abs(cosines_KC).argmax(1, keepdims=True)
    return np.take_along_axis(cosines_KC, best_K1, 1)[:, 0]


def smoothness(rows_KD: np.ndarray, sample_shape: tuple[int, ...]) -> np.ndarray:
    """Return each row's correlation between neighbouring pixels, shape ``(K,)``.

    It is Moran's I over the four-neighbourhood: about 0 for noise, near 1 for a smooth image, and 0
    for a constant row.
    """
    images_KHW = rows_KD.reshape(len(rows_KD), *[size for size in sample_shape if size != 1])
    centred_KHW = images_KHW - images_KHW.mean((1, 2), keepdims=True)
    right_K = (centred_KHW[:, :, 1:] * centred_KHW[:, :, :-1]).mean((1, 2))
    below_K = (centred_KHW[:, 1:] * centred_KHW[:, :-1]).mean((1, 2))
    variance_K = np.square(centred_KHW).mean((1, 2))
    together_K = (right_K + below_K) / 2
    return np.divide(together_K, variance_K, out=np.zeros_like(variance_K), where=variance_K > 0)


def describe(rows_KD: np.ndarray, prototypes: Prototypes) -> dict[str, float]:
    """Return how much rows look like prototypes, and how much their permutations do.

    ``class_mean`` and ``centroid`` are means of the best |cosine|, ``smoothness`` is that of the
    rows. Each has a ``_control``, the mean over 200 permutations of every row, and a ``_share``,
    the share of rows above the 95th percentile of their own permutations, 5 % for noise.
    ``centroid_positive`` is the share of rows with a positive best cosine.
    """
    varies_D = prototypes.varies_D
    rng = np.random.default_rng(0)
    active_KD = rows_KD * varies_D

    def likeness(rows_KD: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "class_mean": np.abs(best_cosine(rows_KD, prototypes.class_means_CD)),
            "centroid": np.abs(best_cosine(rows_KD, prototypes.centroids_CD)),
            "smoothness": smoothness(rows_KD, prototypes.sample_shape),
        }

    controls, permuted_KD = [], active_KD.copy()
    for _ in range(PERMUTATIONS):
        permuted_KD[:, varies_D] = rng.permuted(active_KD[:, varies_D], axis=1)
        controls.append(likeness(permuted_KD))
    signed_K = best_cosine(active_KD, prototypes.centroids_CD)
    result = {"centroid_positive": float((signed_K > 0).mean())}
    for name, own_K in likeness(active_KD).items():
        control_PK = np.stack([control[name] for control in controls])
        result[name] = float(own_K.mean())
        result[f"{name}_control"] = float(control_PK.mean())
        result[f"{name}_share"] = float((own_K > np.percentile(control_PK, PERCENTILE, 0)).mean())
    return result


def purities(energies_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Return ``top_purity`` by responsibility, ``softmax(-E)``, by activation, and by chance.

    Random scores give the purity by chance, which is more than a tenth for ten classes.
    """
    scores = {
        "purity_chance": np.random.default_rng(0).random((len(labels_N), 200)),
        "purity_responsibility": softmax(-energies_NK, axis=1),
        "purity_activation": energies_NK,
    }
    return {name: top_purity(top_classes(values, labels_N)) for name, values in scores.items()}
