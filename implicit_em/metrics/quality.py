"""All measurements of one encoder, by name."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from implicit_em.metrics import DeadUnits, SilentUnits
from implicit_em.metrics.densities import (
    EDGES,
    RELATIVE,
    density,
    density_histogram,
    unit_densities,
)
from implicit_em.metrics.dictionaries import Coherence, coherence, varying
from implicit_em.metrics.probe import linear_probe
from implicit_em.metrics.purity import class_purity
from implicit_em.metrics.reconstruction import fvu, least_squares_fvu
from implicit_em.metrics.sparse_probe import sparse_probe


@dataclass(frozen=True)
class Encoded:
    """A set of samples and what an encoder makes of them.

    Args:
        x_ND: the inputs.
        labels_N: class of each.
        activations_NK: the encoder's activations, or energies.

    Raises:
        ValueError: if these are not of as many samples, or are not finite.

    """

    x_ND: np.ndarray
    labels_N: np.ndarray
    activations_NK: np.ndarray

    def __post_init__(self) -> None:
        counts = len(self.x_ND), len(self.labels_N), len(self.activations_NK)
        if len(set(counts)) > 1:
            raise ValueError("{} inputs, {} labels, {} rows of activations".format(*counts))
        for name in ("x_ND", "activations_NK"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} is not finite")


def quality(
    train: Encoded,
    test: Encoded,
    encoder_KD: np.ndarray | None = None,
    decoder_KD: np.ndarray | None = None,
    reconstruction_ND: np.ndarray | None = None,
    threads: int | None = None,
) -> dict[str, float | int | None]:
    """Return what is measured of one encoder; the same keys for every one.

    - ``exact_density``, ``relative_density``: of the test activations, by zero and by 1 % of each
      unit's maximum; ``units_dead``, ``units_to_0.0001``, …, ``units_to_1``: how many units have
      which density by the latter.
    - ``fvu``, ``least_squares_fvu``: test variance that the learned and the best linear decoder
      leave unexplained.
    - ``probe_accuracy``, ``sparse_probe_1``, …: test accuracy of the probe on all units, and
      balanced accuracy on k of them.
    - ``dead_units`` (variance) and ``silent_units`` (scale-free) on the test set.
    - ``class_purity`` of the test activations.
    - ``encoder_coherence_mean``, ``_max``, ``decoder_coherence_mean``, ``_max``.

    ``stability`` takes several runs and is not among them; encoders are compared on the features
    that vary over the training set.

    Args:
        train: what decoders and probes are fitted on.
        test: what is measured.
        encoder_KD: weight rows, where the encoder has such.
        decoder_KD: the learned decoder's columns as rows, where there is one.
        reconstruction_ND: of the test inputs by the learned decoder, where there is one.
        threads: of the linear algebra; ``None`` leaves the library's own number.

    Returns:
        Numbers by name; ``None`` for what cannot be computed.

    """
    with threadpool_limits(limits=threads):
        results = {
            **_densities(test),
            **_reconstruction(train, test, reconstruction_ND),
            **_probes(train, test, threads),
            **_dead(test),
            "class_purity": class_purity(test.activations_NK, test.labels_N),
            **_coherence("encoder", encoder_KD, varying(train.x_ND)),
            **_coherence("decoder", decoder_KD, slice(None)),
        }
    return {key: None if np.isnan(value) else value for key, value in results.items()}


def _densities(test: Encoded) -> Mapping[str, float | int]:
    counts = density_histogram(unit_densities(test.activations_NK, RELATIVE))
    bins = ["units_dead", *(f"units_to_{edge:g}" for edge in EDGES)]
    return {
        "exact_density": density(test.activations_NK),
        "relative_density": density(test.activations_NK, RELATIVE),
        **dict(zip(bins, counts.tolist(), strict=True)),
    }


def _reconstruction(
    train: Encoded, test: Encoded, reconstruction_ND: np.ndarray | None
) -> Mapping[str, float]:
    arrays = (train.activations_NK, train.x_ND, test.activations_NK, test.x_ND)
    learned = np.nan if reconstruction_ND is None else fvu(test.x_ND, reconstruction_ND)
    return {"fvu": learned, "least_squares_fvu": least_squares_fvu(*arrays)}


def _probes(train: Encoded, test: Encoded, threads: int | None) -> Mapping[str, float]:
    arrays = (train.activations_NK, train.labels_N, test.activations_NK, test.labels_N)
    one_class = len(np.unique(train.labels_N)) < 2
    return {
        "probe_accuracy": np.nan if one_class else linear_probe(*arrays, threads),
        **{f"sparse_probe_{size}": value for size, value in sparse_probe(*arrays).items()},
    }


def _dead(test: Encoded) -> Mapping[str, int]:
    activations = torch.tensor(test.activations_NK)  # a copy: the array may be read-only
    counts = {}
    for name, metric in (("dead_units", DeadUnits), ("silent_units", SilentUnits)):
        count = metric(activations.shape[1])
        count.update(activations)
        counts[name] = int(count.compute())
    return counts


def _coherence(
    name: str, rows_KD: np.ndarray | None, features: np.ndarray | slice
) -> Mapping[str, float]:
    value = Coherence(np.nan, np.nan) if rows_KD is None else coherence(rows_KD[:, features])
    return {f"{name}_coherence_mean": value.mean, f"{name}_coherence_max": value.maximum}
