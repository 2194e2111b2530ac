"""A control for the labels that features tell: random directions that are active as often."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from implicit_em.models import Encoder
from implicit_em.training.decoding import BATCH, encoded
from implicit_em.viewer.activity import Unit

CONTROLS = 32
"""Largest number of units that are compared with random directions."""


def evenly_spaced(densities_K: Sequence[float]) -> list[int]:
    """Return units that are active at all, evenly spaced by how often they are."""
    order_K = np.argsort(densities_K, kind="stable")
    live_L = order_K[np.asarray(densities_K)[order_K] > 0]
    places = np.linspace(0, len(live_L) - 1, min(CONTROLS, len(live_L))).round().astype(int)
    return live_L[places].tolist()


def random_units(samples: Any, width: int, counts_C: Sequence[int], seed: int = 0) -> list[Unit]:
    """Return units of random directions.

    Each is active on the samples with the largest products with its direction, and its activation
    is the product less the largest of those on which it is silent.

    Args:
        samples: samples ``(N, D)`` that a model of the run takes.
        width: their width D.
        counts_C: number of samples that activate each unit, above 0 and at most N.
        seed: seed of the directions, which are normally distributed.
    """
    model = Encoder(width, len(counts_C), nn.Identity())
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(model.weight, generator=generator)
    nn.init.zeros_(model.linear.bias)
    with torch.no_grad():
        products_NC = torch.cat([z_BC for z_BC, _ in encoded(model, samples, BATCH)]).numpy()
    return [
        _most_active(number, products_N, count)
        for number, (products_N, count) in enumerate(zip(products_NC.T, counts_C, strict=True))
    ]


def _most_active(number: int, products_N: np.ndarray, count: int) -> Unit:
    order_N = np.argsort(-products_N, kind="stable")
    samples_E = np.sort(order_N[:count])
    silent = products_N[order_N[count]] if count < len(order_N) else products_N.min() - 1
    return Unit(number, samples_E, products_N[samples_E] - silent)
