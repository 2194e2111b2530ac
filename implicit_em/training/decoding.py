"""A linear decoder for any model, fitted by ridge regression after the training."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from implicit_em.base.threads import torch_threads
from implicit_em.data import ResidentDataModule, as_unit_float
from implicit_em.data.modules import fixed_choice
from implicit_em.data.on_disk import Samples, SamplesOnDisk
from implicit_em.metrics.dictionaries import cosines, norms_at_sites, single_site
from implicit_em.metrics.energies import UnexplainedVariance
from implicit_em.metrics.reconstruction import chosen_ridge_decoder, fvu_of, ridge_decoder
from implicit_em.metrics.recovery import recovered
from implicit_em.models.normalizing import Normalized, at_least_float32
from implicit_em.models.sae import SparseAutoencoder

FITTED = 4096
"""Number of training samples that ``decoder_of`` fits on, unless the units ask for more."""
FITTED_PER_UNIT = 8
"""Number of samples for each unit, if that makes more."""
WIDEST = 8192
"""Number of units above which ``FITTED_PER_UNIT`` samples a unit would take too long to fit."""
MOST_FITTED = 16_384
"""Largest number of samples that the fit takes."""
ALONE = 2048
"""Number of units up to which one thread fits a decoder in seconds."""
MEASURED = 2048
"""Largest number of final samples that ``ridge_fvu`` measures the decoder on."""
FOUND = 0.8
"""Cosine above which a direction counts as a feature's direction."""
BATCH = 256
"""Number of samples encoded at a time: a block that stays in a processor's cache."""


@dataclass(frozen=True, repr=False)
class RidgeDecoder:
    """Linear decoder ``x' = a W + b`` of a model's energies or activations ``a``.

    Args:
        model: model whose ``encode`` gives ``a``.
        weight: matrix W, shape ``(K, D)``; a row is the direction that a unit stands for.
        bias: vector b, shape ``(D,)``.
        ridge: strength of its ridge; infinite for the model's own decoder, ``None`` if not known.
    """

    model: Any
    weight: Tensor
    bias: Tensor
    ridge: float | None = None

    def __call__(self, activations: Tensor) -> Tensor:
        """Return the reconstructions ``(..., D)`` of energies or activations ``(..., K)``."""
        return nn.functional.linear(activations, self.weight.T, self.bias)

    def reconstruct(self, x: Any) -> Tensor:
        """Return reconstructions ``(N, D)`` of samples ``(N, ...)`` from their energies."""
        return torch.cat([self(code) for code, _ in encoded(self.model, x, BATCH)])

    def __repr__(self) -> str:
        units, width = self.weight.shape
        return f"RidgeDecoder({units} units of {type(self.model).__name__} -> {width} inputs)"

    def fvu(self, x: Any, target: Any = None) -> float:
        """Return the fraction of the variance of samples ``(N, ...)`` that is left unexplained.

        The fraction is ``sum (x - x')^2 / sum (x - mean x)^2``, over samples and features. With a
        ``target``, as in ``fit_decoder``, the target takes the place of x.
        """
        pairs = encoded(self.model, x, BATCH, target)
        return fvu_of((wanted, self(code)) for code, wanted in pairs)

    def explained_variance(self, x: Any, target: Any = None) -> float:
        """Return the fraction of the variance of samples ``(N, ...)`` explained: 1 - FVU."""
        return 1 - self.fvu(x, target)


def fit_ridge(
    model: Any, x: Any, ridge: float | None = None, target: Any = None, held: Any = None
) -> RidgeDecoder:
    """Fit a linear decoder to a model's code; see ``trained.loading.fit_decoder``.

    Samples are encoded in blocks of ``BATCH``, and never all codes are held, unless there are fewer
    samples than units.

    Args:
        model: model with ``encode``. Its ``own_decoder`` is what the decoder shrinks towards.
        x: samples to fit on, a tensor or array of shape ``(N, ...)``.
        ridge: strength of the ridge, above 0; ``None`` for a choice.
        target: what the decoder is to explain, shape ``(N, T)``; ``None`` for the samples, or for
            the targets that stand beside them.
        held: samples ``(M, ...)`` by which the strength is chosen, with their targets beside them;
            ``None`` for every fifth sample of a block of ``x``.

    Raises:
        ValueError: if the ridge is not above 0 and finite, or given with ``held``; if there are
            fewer than two samples; or if the target of a transcoder is missing.
    """
    if ridge is not None and not 0 < ridge < math.inf:
        raise ValueError(f"ridge={ridge}: must be above 0 and finite")
    if held is not None and not (ridge is None and target is None):
        raise ValueError("held: neither ridge nor target may be given with it")
    if len(shape := np.shape(x)) < 2 or shape[0] < 2:
        raise ValueError(f"samples of shape {tuple(shape)}: allowed is (N, ...), N from 2 on")
    if held is not None and not len(held):
        raise ValueError("held: 0 samples; allowed is 1 or more")
    pairs = partial(encoded, model, x, BATCH, target)
    width = next(iter(pairs()))[1].shape[-1]
    if not width:  # a transcoder, and its inputs alone
        raise ValueError(f"target=None: allowed are vectors of width {model.out_features}")
    # The own decoder is no guess at another target than the model's.
    own = model.own_decoder if target is None or model.out_features == width else None
    wide = model.weight.shape[-2] > len(_flat(model, x))
    if ridge is None:
        judging = None if held is None else partial(encoded, model, held, BATCH)
        (weight, bias), ridge = chosen_ridge_decoder(pairs, judging, own, wide)
    else:
        weight, bias = ridge_decoder(pairs(), ridge, own, wide)
    dtype = at_least_float32(model.weight.dtype)
    return RidgeDecoder(model, weight.to(dtype), bias.to(dtype), ridge)


def decoder_of(model: Any, data: ResidentDataModule) -> RidgeDecoder:
    """Return a ridge decoder, fitted on a fixed choice of the data's training samples.

    One thread fits a decoder of up to ``ALONE`` units. On a busy machine, several threads would
    wait for each other.
    """
    with torch_threads(1) if len(model.weight) <= ALONE else nullcontext():
        return _decoder_of(model, data)


def _decoder_of(model: Any, data: ResidentDataModule) -> RidgeDecoder:
    units = len(model.weight)
    most = min(max(FITTED, FITTED_PER_UNIT * units), MOST_FITTED) if units <= WIDEST else FITTED
    samples, rows = data.split("train")[0], data.train_indices()
    fitted = rows[fixed_choice(len(rows), most)].to(samples.device)
    return fit_ridge(model, samples.index_select(0, fitted))


def ridge_fvu(model: Any, data: ResidentDataModule) -> float:
    """Return the FVU of the data's final samples by the decoder of ``decoder_of``."""
    return _decoder_of(model, data).fvu(measured(data))


def at_sites(model: Any, data: ResidentDataModule) -> dict[str, Any]:
    """Return the FVU of final samples at each site of a crosscoder, and its single-site units.

    The decoder is the crosscoder's own, or the ridge decoder of ``decoder_of``. The FVU is of
    samples before normalisation; the norms of rows are of the decoder for normalised samples.
    """
    decoder = None if isinstance(model, SparseAutoencoder) else decoder_of(model, data)
    raw_model = Normalized(model, data.normalizer, decoder)
    raw = (lambda x: x) if data.normalizer is None else data.normalizer.inverse
    found = {site: UnexplainedVariance() for site in data.parts}
    for code, x_BD in encoded(model, data.final_samples()[0], BATCH):
        wanted_BD, decoded_BD = raw(x_BD), raw_model.decode(code.to(model.weight.dtype))
        for site, columns in data.parts.items():
            found[site].update(decoded_BD[:, columns], wanted_BD[:, columns])
    norms_KS = norms_at_sites(raw_model.rows.cpu().numpy(), [*data.parts.values()])
    fvus = {f"fvu.{site}": metric.compute().item() for site, metric in found.items()}
    return {**fvus, "single_site_units": int(single_site(norms_KS).sum())}


def measured(data: ResidentDataModule) -> Tensor:
    """Return the final samples that a decoder is measured on, a fixed choice."""
    final = data.final_samples()[0]
    return final.index_select(0, fixed_choice(len(final), MEASURED).to(final.device))


def features_found(model: Any, data: ResidentDataModule) -> float | None:
    """Return the share of known features that a ridge decoder finds; ``None`` for other data.

    The decoder is fitted on the training samples. A feature is found if one of its directions has a
    cosine above ``FOUND`` with it, among clean samples.
    """
    if (truth := data.truth()) is None:
        return None
    decoder = fit_ridge(model, data.starting_samples())
    directions_KD = decoder.weight.cpu().numpy()
    if not np.isfinite(directions_KD).all():
        return float("nan")
    found = cosines(truth.undone(truth.directions_MD), truth.undone(directions_KD))
    return recovered(found.max(1), FOUND)


@torch.no_grad()
def encoded(
    model: Any, samples: Any, batch_size: int, target: Any = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield energies ``(B, K)`` and what is to be explained, in float32 or float64, by batches.

    What is to be explained are the inputs ``(B, D)``, or the targets beside the inputs.

    Args:
        model: model whose ``encode`` gives energies, or hidden activations.
        samples: tensor or array of shape ``(N, ...)``, or ``(..., D)`` for rows of the model's own
            width; uint8, which is scaled to [0, 1], or floating point.
        batch_size: number of samples in a batch.
        target: what is to be explained, ``(N, T)``; ``None`` for what the samples hold.
    """
    dtype = at_least_float32(model.weight.dtype)
    targets: Any = repeat(None)
    if target is not None:
        targets = torch.as_tensor(target).flatten(1)
        if (given := len(targets)) != (count := len(_flat(model, samples))):
            raise ValueError(f"target: {given} samples; allowed are {count}, as in x")
        targets = targets.split(batch_size)
    for (x, beside), apart in zip(both_sides(model, samples, batch_size), targets, strict=False):
        explained = beside if apart is None else apart
        yield model.encode(x).to(dtype), explained.to(x.device, dtype)


def both_sides(model: Any, samples: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets in the model's dtype, batch by batch; see ``encoded``."""
    weight = model.weight
    for batch in _flat(model, samples).split(batch_size):
        rows = as_unit_float(batch.to(weight.device)).to(weight.dtype)
        yield model.sides(rows)


def _flat(model: Any, samples: Any) -> Samples:
    """Return samples of any shape as ``(N, D)``."""
    if isinstance(samples, SamplesOnDisk):
        return samples
    samples = torch.as_tensor(samples)
    are_rows = samples.shape[-1] == model.weight.shape[-1]
    return samples.flatten(0, -2) if are_rows else samples.flatten(1)
