"""What a unit's active samples say about it; all functions are pure.

``E`` counts the entries of a unit: the samples that activate it.
"""

import numpy as np

from implicit_em.metrics.recovery import rank_auroc


def strongest(values_E: np.ndarray, groups_E: np.ndarray, most: int) -> np.ndarray:
    """Return the entries with the largest values, at most one of each group, largest first.

    Of equal values, the first entry is taken.

    Args:
        values_E: activations.
        groups_E: group of each entry, such as its document.
        most: largest number of entries.
    """
    order_E = np.argsort(-values_E, kind="stable")
    firsts_G = np.unique(groups_E[order_E], return_index=True)[1]
    return order_E[np.sort(firsts_G)[:most]]


def by_rank(
    values_E: np.ndarray, parts: int, each: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Return random entries of parts of equal size, the largest values first.

    Args:
        values_E: activations.
        parts: number of parts; parts without an entry are left out.
        each: largest number of entries of a part.
        generator: source of the choice.
    """
    order_E = np.argsort(-values_E, kind="stable")
    return [
        part[np.sort(generator.choice(len(part), min(each, len(part)), replace=False))]
        for part in np.array_split(order_E, parts)
        if len(part)
    ]


def silent(
    samples_E: np.ndarray, samples: int, most: int, generator: np.random.Generator
) -> np.ndarray:
    """Return random samples that do not activate a unit, in ascending order.

    Args:
        samples_E: samples that activate it, in ascending order.
        samples: number of all samples N.
        most: largest number of samples to return.
        generator: source of the choice.
    """
    left = samples - len(samples_E)
    ranks_M = np.sort(generator.choice(left, min(most, left), replace=False))
    # In front of the active sample number i, there are samples_E[i] - i silent ones.
    return ranks_M + np.searchsorted(samples_E - np.arange(len(samples_E)), ranks_M, side="right")


def label_aurocs(ranks_E: np.ndarray, labels_E: np.ndarray, counts_C: np.ndarray) -> np.ndarray:
    """Return how well a unit tells each label from all others, shape ``(C,)``.

    This is the probability that the unit is more active on a sample with the label than on one
    without, where a tie counts half (Hanley & McNeil 1982). NaN for labels of no or all samples.

    Args:
        ranks_E: ranks of the activations among those above 0, from 1 on, where ties share a mean;
            the unit is 0 on all other samples.
        labels_E: number of the label of each active sample.
        counts_C: number of samples with each label, silent ones included.
    """
    total, active_C = counts_C.sum(), np.bincount(labels_E, minlength=len(counts_C))
    zeros = total - len(ranks_E)
    of_active_C = np.bincount(labels_E, weights=zeros + ranks_E, minlength=len(counts_C))
    sums_C = of_active_C + (counts_C - active_C) * (zeros + 1) / 2
    return rank_auroc(sums_C, counts_C, total)


def largest_of_each_row(values_BK: np.ndarray, most: int) -> list[list[tuple[int, float]]]:
    """Return the columns with the largest values above 0 of each row, largest first."""
    order_BM = np.argsort(-values_BK, axis=1, kind="stable")[:, :most]
    return [
        [(int(k), float(row[k])) for k in columns if row[k] > 0]
        for row, columns in zip(values_BK, order_BM, strict=True)
    ]
