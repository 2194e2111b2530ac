"""Recovery of known features: which directions a dictionary finds, and how well its units detect.

Matrices have a row for each of the M true features, or for each of the K units.
"""

from collections.abc import Mapping

import numpy as np
from scipy.integrate import quad
from scipy.sparse import csc_array
from scipy.stats import beta, rankdata

from implicit_em.metrics.dictionaries import cosines

THRESHOLDS = (0.8, 0.9)
"""Cosines above which a feature counts as found."""
RANKS = 2**24
"""Number of ranks to hold at a time."""


def recovered(best_M: np.ndarray, threshold: float) -> float:
    """Return the share of features whose best cosine is above a threshold."""
    return float((best_M > threshold).mean())


def random_share(
    width: int, units: int, threshold: float | np.ndarray, signed: bool = True
) -> float | np.ndarray:
    """Return the probability that the best cosine of random units is above a threshold.

    For a feature and a direction that is uniform on the sphere in D dimensions, ``(1 + cos) / 2``
    is distributed as Beta((D - 1) / 2, (D - 1) / 2), and ``cos^2`` as Beta(1 / 2, (D - 1) / 2). The
    best of K independent units is below t with probability ``F(t)^K``.

    Args:
        width: number of dimensions D, at least 2.
        units: number of units K.
        threshold: cosine t, in [-1, 1], or in [0, 1] if not signed.
        signed: whether a unit stands for one direction only, or for both.
    """
    shape = (width - 1) / 2
    t = np.asarray(threshold, dtype=np.float64)
    above = beta.sf((1 + t) / 2, shape, shape) if signed else beta.sf(t**2, 0.5, shape)
    with np.errstate(divide="ignore"):  # at the lowest threshold, every cosine is above
        return -np.expm1(units * np.log1p(-above))[()]


def random_best(width: int, units: int, signed: bool = True) -> float:
    """Return the expected best cosine of random units with a feature; see ``random_share``.

    It is the lowest cosine plus the integral of ``1 - F(t)^K`` from there to 1.
    """
    lowest = -1.0 if signed else 0.0
    return lowest + quad(lambda t: random_share(width, units, t, signed), lowest, 1, limit=200)[0]


def split_and_merged(cosines_MK: np.ndarray, threshold: float = 0.8) -> tuple[float, float]:
    """Return the shares of features that several units stand for, and that share a unit.

    A feature is split if its cosine with two or more units is above the threshold. It is merged if
    the unit with its largest cosine, above 0, has the largest cosine of another feature as well.
    """
    split_M = (cosines_MK > threshold).sum(1) > 1
    unit_M = np.where(cosines_MK.max(1) > 0, cosines_MK.argmax(1), -1)
    merged_M = (unit_M >= 0) & (np.bincount(unit_M + 1)[unit_M + 1] > 1)
    return float(split_M.mean()), float(merged_M.mean())


def presence_auroc(presence_NM: np.ndarray, activations_NK: np.ndarray) -> np.ndarray:
    """Return how well one unit tells where each feature is present: an AUROC, shape ``(M,)``.

    This is the probability that the unit is more active on a sample with the feature than on one
    without, where a tie counts half (Hanley & McNeil 1982). The unit is the one with the largest
    AUROC on the first half of the samples, and is measured on the other half: the best of many on
    the same samples would be too good. NaN for features that are present in none or all samples of
    a half.

    Args:
        presence_NM: whether each feature is present, an array or sparse array.
        activations_NK: activations of the units.

    Raises:
        ValueError: if an activation is not finite.
    """
    if not np.isfinite(activations_NK).all():
        raise ValueError("activations_NK is not finite")
    half, features = len(activations_NK) // 2, presence_NM.shape[1]
    presence = csc_array(presence_NM, dtype=np.float64)
    first, second = presence[:half], presence[half:]
    best_M, unit_M = np.full(features, -np.inf), np.zeros(features, dtype=int)
    size = max(1, RANKS // max(1, len(activations_NK)))
    for start in range(0, activations_NK.shape[1], size):
        ranks_NB = rankdata(activations_NK[:half, start : start + size], axis=0)
        aurocs_BM = rank_auroc(ranks_NB.T @ first, first.sum(0), half)
        better_M = aurocs_BM.max(0) > best_M
        best_M[better_M] = aurocs_BM.max(0)[better_M]
        unit_M[better_M] = start + aurocs_BM.argmax(0)[better_M]
    sums_M = np.zeros(features)
    for start in range(0, features, size):
        some = slice(start, start + size)
        ranks_NB = rankdata(activations_NK[half:, unit_M[some]], axis=0)
        sums_M[some] = second[:, some].multiply(ranks_NB).sum(0)
    auroc_M = rank_auroc(sums_M, second.sum(0), second.shape[0])
    return np.where(np.isfinite(best_M), auroc_M, np.nan)


def rank_auroc(sums: np.ndarray, having: np.ndarray, samples: int) -> np.ndarray:
    """Return AUROCs from the sums of the ranks of the samples that have each feature.

    NaN for features that none or all of the samples have.

    Args:
        sums: sums of ranks, which count from 1, shape ``(..., M)``.
        having: number of samples that have each feature, shape ``(M,)``.
        samples: number of all samples.
    """
    pairs = having * (samples - having)
    return (sums - having * (having + 1) / 2) / np.where(pairs > 0, pairs, np.nan)


def recovery(
    truth_MD: np.ndarray,
    presence_NM: np.ndarray,
    activations_NK: np.ndarray,
    directions: Mapping[str, np.ndarray | None],
    signed: bool = True,
) -> dict[str, float | int | None]:
    """Return all measurements of a model against the features that made its samples, by name.

    For each NAME of ``directions``:

    - ``NAME_found_0.8``, ``NAME_found_0.9``: share of the features with a cosine above this.
    - ``NAME_mean_cosine``: mean over the features of the best cosine.
    - ``NAME_split``, ``NAME_merged``: see ``split_and_merged``.

    And for the activations: ``auroc``, the mean of ``presence_auroc`` over the features for which
    it is defined, and ``auroc_features``, their number; ``dead_units``, the units that are never
    active; ``l0``, the mean number of active units. A unit is active above 0. A number is ``None``
    if it cannot be computed.

    Args:
        truth_MD: the true features.
        presence_NM: whether each feature is present in each sample, an array or sparse array.
        activations_NK: activations of the units for the same samples.
        directions: matrices ``(K, D)`` by name, such as the rows of an encoder and the columns of a
            decoder; ``None`` for one that the model lacks.
        signed: whether a unit stands for one direction only. Models whose codes have both signs,
            such as PCA, stand for both: then cosines and activations count by their absolute value.
    """
    active_NK = activations_NK if signed else np.abs(activations_NK)
    auroc_M = presence_auroc(presence_NM, active_NK)
    defined_M = ~np.isnan(auroc_M)
    results = {
        key: value
        for name, found_KD in directions.items()
        for key, value in _directions(name, truth_MD, found_KD, signed).items()
    }
    return {
        **results,
        "auroc": float(auroc_M[defined_M].mean()) if defined_M.any() else None,
        "auroc_features": int(defined_M.sum()),
        "dead_units": int((~(active_NK > 0).any(0)).sum()),
        "l0": float((active_NK > 0).sum(1).mean()),
    }


def _directions(
    name: str, truth_MD: np.ndarray, found_KD: np.ndarray | None, signed: bool
) -> dict[str, float | None]:
    keys = (*(f"found_{threshold:g}" for threshold in THRESHOLDS), "mean_cosine", "split", "merged")
    values: tuple[float | None, ...] = (None,) * len(keys)
    if found_KD is not None:
        cosines_MK = cosines(truth_MD, found_KD, signed)
        best_M = cosines_MK.max(1)
        found = [recovered(best_M, threshold) for threshold in THRESHOLDS]
        values = (*found, float(best_M.mean()), *split_and_merged(cosines_MK))
    return {f"{name}_{key}": value for key, value in zip(keys, values, strict=True)}
