"""Experiment 5, features: whether the weight rows are prototypes of the data, or noise.

Numbers beside the pictures. Each is compared with the same number for the same rows with their
pixels permuted, which keeps every row's values and takes its structure away. Only pixels that vary
over the images take part: the others keep their initial weight for ever, in every model.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

CENTROIDS = 64
PERMUTATIONS = 200
TOP_IMAGES = 100
PERCENTILE = 95


@dataclass(frozen=True)
class Prototypes:
    """What rows are compared with, from a set of images.

    Args:
        class_means_CD: mean of each class minus that of all images.
        centroids_CD: k-means centroids minus the mean of all images.
        varies_D: whether a pixel takes more than one value.
        sample_shape: of one image.

    """

    class_means_CD: np.ndarray
    centroids_CD: np.ndarray
    varies_D: np.ndarray
    sample_shape: tuple[int, ...]


def find_prototypes(
    images_ND: np.ndarray, labels_N: np.ndarray, sample_shape: tuple[int, ...], seed: int = 0
) -> Prototypes:
    """Return the class means and k-means centroids (k = 64) of images.

    The mean image is subtracted: a row's bias absorbs it, and all classes share it.
    """
    mean_D = images_ND.mean(0)
    classes = np.unique(labels_N)
    means_CD = np.stack([images_ND[labels_N == label].mean(0) for label in classes])
    clusters = min(CENTROIDS, len(images_ND))
    with threadpool_limits(limits=1):
        kmeans = KMeans(clusters, n_init=1, random_state=seed).fit(images_ND)
    return Prototypes(
        means_CD - mean_D,
        kmeans.cluster_centers_ - mean_D,
        images_ND.min(0) < images_ND.max(0),
        sample_shape,
    )


def best_cosine(rows_KD: np.ndarray, targets_CD: np.ndarray) -> np.ndarray:
    """Return each row's cosine with the target where it is largest in size, shape ``(K,)``.

    Negative where the row is like the target's negative: the component's energy is then low on what
    the target shows, which it explains; a positive one detects it by a high energy.
    """
    cosines_KC = normalize(rows_KD) @ normalize(targets_CD).T
    best_K1 = np.abs(cosines_KC).argmax(1, keepdims=True)
    return np.take_along_axis(cosines_KC, best_K1, 1)[:, 0]


def smoothness(rows_KD: np.ndarray, sample_shape: tuple[int, ...]) -> np.ndarray:
    """Return each row's correlation between neighbouring pixels, shape ``(K,)``.

    Moran's I over the four-neighbourhood: about 0 for noise, near 1 for a smooth image; 0 for a
    row that is constant.
    """
    images_KHW = rows_KD.reshape(len(rows_KD), *[size for size in sample_shape if size != 1])
    centred_KHW = images_KHW - images_KHW.mean((1, 2), keepdims=True)
    right_K = (centred_KHW[:, :, 1:] * centred_KHW[:, :, :-1]).mean((1, 2))
    below_K = (centred_KHW[:, 1:] * centred_KHW[:, :-1]).mean((1, 2))
    variance_K = np.square(centred_KHW).mean((1, 2))
    together_K = (right_K + below_K) / 2
    return np.divide(together_K, variance_K, out=np.zeros_like(variance_K), where=variance_K > 0)


def describe(rows_KD: np.ndarray, prototypes: Prototypes, seed: int = 0) -> dict[str, float]:
    """Return the numbers of a matrix of rows beside those of its permuted rows.

    For each of ``class_mean``, ``centroid`` (best |cosine|) and ``smoothness``: the mean, that of
    the control (``_control``), and the share of rows above the 95th percentile of their own 200
    permutations (``_share``; 5 % for rows without structure). ``centroid_positive``: the share of
    rows whose best cosine with a centroid is positive.
    """
    varies_D = prototypes.varies_D
    rng = np.random.default_rng(seed)
    active_KD = rows_KD * varies_D
    measures = {
        "class_mean": lambda rows: np.abs(best_cosine(rows, prototypes.class_means_CD)),
        "centroid": lambda rows: np.abs(best_cosine(rows, prototypes.centroids_CD)),
        "smoothness": lambda rows: smoothness(rows, prototypes.sample_shape),
    }
    controls: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    permuted_KD = active_KD.copy()
    for _ in range(PERMUTATIONS):
        permuted_KD[:, varies_D] = rng.permuted(active_KD[:, varies_D], axis=1)
        for name, measure in measures.items():
            controls[name].append(measure(permuted_KD))
    signed_K = best_cosine(active_KD, prototypes.centroids_CD)
    result = {"centroid_positive": float((signed_K > 0).mean())}
    for name, measure in measures.items():
        own_K, control_PK = measure(active_KD), np.stack(controls[name])
        result[name] = float(own_K.mean())
        result[f"{name}_control"] = float(control_PK.mean())
        result[f"{name}_share"] = float((own_K > np.percentile(control_PK, PERCENTILE, 0)).mean())
    return result


def purity(scores_NK: np.ndarray, labels_N: np.ndarray, top: int = TOP_IMAGES) -> float:
    """Return how far the top images of a component share a class, the mean over components.

    Args:
        scores_NK: what says that an image belongs to a component: responsibilities, or activations.
        labels_N: class of each image, integers from 0.
        top: images taken for each component. One whose scores do not vary is left out.

    Returns:
        The share of the commonest class in [0, 1]; NaN where no component varies.

    """
    varying_NK = scores_NK[:, np.ptp(scores_NK, axis=0) > 0]
    best_TK = np.argsort(-varying_NK, axis=0, kind="stable")[:top]
    counts = [np.bincount(labels).max() for labels in labels_N[best_TK].T]
    return float(np.mean(counts) / len(best_TK)) if counts else float("nan")


def purities(energies_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Return ``purity`` by responsibility, ``softmax(-E)``, by activation, E itself, and by chance.

    Chance is the purity of random scores: the commonest of ten classes among 100 images has more
    than a tenth of them.
    """
    chance_NK = np.random.default_rng(0).random((len(labels_N), 200))
    return {
        "purity_chance": purity(chance_NK, labels_N),
        "purity_responsibility": purity(softmax(-energies_NK, axis=1), labels_N),
        "purity_activation": purity(energies_NK, labels_N),
    }
