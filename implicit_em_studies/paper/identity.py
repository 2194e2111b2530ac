"""Experiment 1, the theorem: the gradient of log-sum-exp at each energy is its responsibility.

The gradient comes from automatic differentiation through ``torch.logsumexp``. The closed form of
``losses.lse`` would only be compared with itself; it is checked beside it.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nan

from implicit_em.losses import lse
from implicit_em.models import Encoder

PAPER_SHAPE = (64, 128)  # B x K of the paper's draw
SHAPES = ((1, 1), (1, 64), (128, 2), PAPER_SHAPE, (128, 64), (128, 4096))
SCALES = (1e-6, 1e-4, 1e-2, 1.0, 1e1, 1e2, 1e3, 1e4)
DTYPES = (torch.float32, torch.float64)


def definition(energies: Tensor) -> Tensor:
    """Return ``-log sum_j exp(-E_j)``, summed over samples; autograd differentiates it."""
    return -torch.logsumexp(-energies, -1).sum()


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {"autograd": definition, "closed form": lse}


def agreement(
    energies_BK: Tensor, objective: Callable[[Tensor], Tensor] = definition
) -> dict[str, float]:
    """Compare the gradient of an objective at energies with their responsibilities.

    ``max_error`` and ``mean_error`` are against ``softmax(-E)`` in the precision of the energies,
    ``max_true_error`` is against float64. ``correlation`` is NaN if responsibilities do not vary.
    """
    gradient_BK = _gradient(energies_BK, objective)
    return _compare(gradient_BK, (-energies_BK).softmax(-1), (-energies_BK.double()).softmax(-1))


def error_bound(energies_BK: Tensor) -> float:
    """Return the largest error that rounding may cause in autograd's gradient.

    The gradient is ``exp(-E_j - L)``. The logarithm L is rounded at the level of the energies, so
    the error grows as ``eps * max|E|``. Below a level of 1 the exponential's own rounding remains.
    """
    return torch.finfo(energies_BK.dtype).eps * (1 + float(energies_BK.abs().max()))


def draws() -> pd.DataFrame:
    """Return the ``agreement`` of normal energies of all shapes, scales, precisions and gradients.

    Every draw begins at the same seed; ``bound`` is its ``error_bound``.
    """
    cases = [(shape, 1.0) for shape in SHAPES] + [(PAPER_SHAPE, s) for s in SCALES if s != 1.0]
    rows = []
    for (shape, scale), dtype in product(cases, DTYPES):
        energies_BK = (scale * _standard_normal(shape)).to(dtype)
        case = {
            "dtype": str(dtype).removeprefix("torch."),
            "batch": shape[0],
            "components": shape[1],
            "scale": scale,
            "bound": error_bound(energies_BK),
        }
        for name, objective in GRADIENTS.items():
            rows.append({"gradient": name, **case, **agreement(energies_BK, objective)})
    return pd.DataFrame(rows)


def through_encoder(encoder: Encoder, x_BD: Tensor) -> pd.DataFrame:
    """Return the ``agreement`` at an encoder's energies and at its weights, in each precision.

    If the gradient at the energies is the responsibility r, the gradient at the weights is
    ``sum_b r_bj f'(z_bj) x_b``. ``scale`` is the largest energy or gradient; errors at the weights
    are relative to it.
    """
    rows = []
    for dtype in DTYPES:
        weight_KD, bias_K, inputs_BD = (
            t.detach().to(dtype) for t in (encoder.weight, encoder.linear.bias, x_BD)
        )
        with torch.enable_grad():
            weight_KD.requires_grad_()
            z_BK = inputs_BD @ weight_KD.mT + bias_K
            energies_BK = encoder.activation(z_BK)
            (slope_BK,) = torch.autograd.grad(energies_BK.sum(), z_BK, retain_graph=True)
            at_energies_BK, at_weight_KD = torch.autograd.grad(
                definition(energies_BK), (energies_BK, weight_KD)
            )
        own_BK = (-energies_BK).softmax(-1)
        true_BK = (-energies_BK.double()).softmax(-1)
        own_KD = (own_BK * slope_BK).mT @ inputs_BD
        true_KD = (true_BK * slope_BK.double()).mT @ inputs_BD.double()
        case = {"dtype": str(dtype).removeprefix("torch.")}
        scale, largest = energies_BK.detach().abs().max(), true_KD.detach().abs().max()
        bound = error_bound(energies_BK.detach())
        at_energies = _compare(at_energies_BK, own_BK, true_BK)
        at_weights = _compare(at_weight_KD / largest, own_KD / largest, true_KD / largest)
        rows += [
            {"at": "energies", **case, "scale": float(scale), "bound": bound, **at_energies},
            {"at": "weights", **case, "scale": float(largest), **at_weights},
        ]
    return pd.DataFrame(rows)


def _compare(gradient: Tensor, expected: Tensor, true: Tensor) -> dict[str, float]:
    gradient, expected, true = (t.detach().double().flatten() for t in (gradient, expected, true))
    error = (gradient - expected).abs()
    both = torch.stack([gradient, expected])
    return {
        "correlation": float(both.corrcoef()[0, 1]) if len(gradient) > 1 else nan,
        "max_error": float(error.max()),
        "mean_error": float(error.mean()),
        "max_true_error": float((gradient - true).abs().max()),
    }


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Return gradient and responsibilities of the paper's draw, float32, flattened."""
    energies_BK = _standard_normal(PAPER_SHAPE).float()
    gradient_BK = _gradient(energies_BK, definition)
    return gradient_BK.flatten().numpy(), (-energies_BK).softmax(-1).flatten().numpy()


@torch.enable_grad()
def _gradient(energies_BK: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    leaf = energies_BK.detach().clone().requires_grad_()
    (gradient_BK,) = torch.autograd.grad(objective(leaf), leaf)
    return gradient_BK


def _standard_normal(shape: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
