"""All measurements of one encoder, by name."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from implicit_em.metrics import DeadUnits, SilentUnits, densities
from implicit_em.metrics.dictionaries import coherence, varying
from implicit_em.metrics.probe import linear_probe, sparse_probe
from implicit_em.metrics.purity import class_purity
from implicit_em.metrics.reconstruction import fvu, least_squares_fvu


class Encoded(NamedTuple):
    """A set of samples with their classes and an encoder's activations or energies."""

    x_ND: np.ndarray
    labels_N: np.ndarray
    activations_NK: np.ndarray


def quality(
    train: Encoded,
    test: Encoded,
    encoder_KD: np.ndarray | None = None,
    decoder_KD: np.ndarray | None = None,
    reconstruction_ND: np.ndarray | None = None,
    threads: int | None = None,
) -> dict[str, float | int | None]:
    """Return all measurements of one encoder; the keys are the same for every encoder.

    - ``exact_density``, ``relative_density``: density of the test activations above zero, and above
      1 % of each unit's maximum; ``units_dead``, ``units_to_0.0001``, …, ``units_to_1``: histogram
      of the relative densities.
    - ``fvu``, ``least_squares_fvu``: fraction of the test variance that the learned decoder and the
      best linear decoder leave unexplained.
    - ``probe_accuracy``, ``sparse_probe_1``, …: test accuracy of the probe on all units, and
      balanced accuracy on k of them.
    - ``dead_units`` (by variance), ``silent_units`` (scale-free), ``class_purity`` on the test set.
    - ``encoder_coherence_mean``, ``_max``, ``decoder_coherence_mean``, ``_max``; the encoder's on
      the features that vary over the training set.

    A number is ``None`` if it cannot be computed. Decoders and probes are fitted on ``train``. The
    rows of ``decoder_KD`` are the columns of the learned decoder, and ``reconstruction_ND`` holds
    the test inputs as it reconstructs them; both are ``None`` if there is no decoder.

    Raises:
        ValueError: if inputs or activations are not finite.
    """
    with threadpool_limits(limits=threads):
        learned = np.nan if reconstruction_ND is None else fvu(test.x_ND, reconstruction_ND)
        inputs = (train.activations_NK, train.x_ND, test.activations_NK, test.x_ND)
        results = {
            **_densities(test),
            "fvu": learned,
            "least_squares_fvu": least_squares_fvu(*inputs),
            **_probes(train, test, threads),
            **_dead(test),
            "class_purity": class_purity(test.activations_NK, test.labels_N),
            **_coherence("encoder", encoder_KD, varying(train.x_ND)),
            **_coherence("decoder", decoder_KD, slice(None)),
        }
    return {key: None if np.isnan(value) else value for key, value in results.items()}


def _densities(test: Encoded) -> Mapping[str, float | int]:
    relative_K = densities.unit_densities(test.activations_NK, densities.RELATIVE)
    counts = densities.density_histogram(relative_K)
    return {
        "exact_density": densities.density(test.activations_NK),
        "relative_density": float(relative_K.mean()),
        **dict(zip(densities.BINS, counts.tolist(), strict=True)),
    }


def _probes(train: Encoded, test: Encoded, threads: int | None) -> Mapping[str, float]:
    arrays = (train.activations_NK, train.labels_N, test.activations_NK, test.labels_N)
    one_class = len(np.unique(train.labels_N)) < 2
    return {
        "probe_accuracy": np.nan if one_class else linear_probe(*arrays, threads),
        **{f"sparse_probe_{size}": value for size, value in sparse_probe(*arrays).items()},
    }


def _dead(test: Encoded) -> Mapping[str, int]:
    activations = torch.tensor(test.activations_NK)  # a copy: the array may be read-only
    metrics = {"dead_units": DeadUnits, "silent_units": SilentUnits}
    # A metric returns its value for the samples that it is called with.
    return {name: int(cls(activations.shape[1])(activations)) for name, cls in metrics.items()}


def _coherence(
    name: str, rows_KD: np.ndarray | None, features: np.ndarray | slice
) -> Mapping[str, float]:
    mean, maximum = (np.nan, np.nan) if rows_KD is None else coherence(rows_KD[:, features])
    return {f"{name}_coherence_mean": mean, f"{name}_coherence_max": maximum}
