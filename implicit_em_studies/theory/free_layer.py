r"""The M-step of a free layer: what its rows would be, the responsibilities held fixed.

The energies of a unit are ``w (x - m)`` with the mean m of the samples, and its M-step makes
``<r w (x - m)>`` plus a volume term least. With ``c = Cov(r, x)``, the first part is ``w c``. The
second depends on the variance of the energies, ``v = w' S w`` with the covariance S of the samples.
"""

from collections.abc import Callable

import pandas as pd
import torch
from scipy.optimize import brentq
from torch import Tensor

SCALE = 1.0
"""Scale s of the penalty ``v / (2 s^2)``."""
WEIGHT = 0.05
"""Weight lambda of the variance's logarithm."""
DECAY = 5.0
"""Weight d of the decay. With these three all terms are about as large on MNIST."""
FACTORS = (0.1, 1.0, 10.0, 100.0)
"""Factors on a row at which the table shows the objective."""


def moments(r_N: Tensor, x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``Cov(r, x)``, shape ``(D,)``, and the covariance of x, ``(D, D)``, divided by N."""
    centred_ND = x_ND - x_ND.mean(0)
    return r_N @ centred_ND / len(x_ND), centred_ND.T @ centred_ND / len(x_ND)


def penalised_row(
    c_D: Tensor, covariance_DD: Tensor, scale: float = SCALE, weight: float = WEIGHT
) -> Tensor:
    """Return the row w that makes ``w c + v / (2 s^2) - lambda log v`` least, in closed form.

    It is ``-alpha S^-1 c``, the least-squares regression of -r on x times alpha. With
    ``q^2 = c' S^-1 c``, the objective at such a row is ``-alpha q^2 + alpha^2 q^2 / (2 s^2) -
    lambda log(alpha^2 q^2)``, which is least at the larger root of ``alpha^2 / s^2 - alpha =
    2 lambda / q^2``. Leading dimensions are rows of their own.

    Args:
        c_D: covariance of the responsibilities with the samples, shape ``(..., D)``.
        covariance_DD: covariance of the samples; where it is singular, c lies in its range.
        scale: the scale s.
        weight: the weight lambda of the variance's logarithm.
    """
    solved_D = c_D @ torch.linalg.pinv(covariance_DD, hermitian=True)
    explained = (c_D * solved_D).sum(-1, keepdim=True)
    alpha = scale**2 / 2 * (1 + (1 + 8 * weight / (scale**2 * explained)).sqrt())
    return -alpha * solved_D


def decayed_row(
    c_D: Tensor, covariance_DD: Tensor, decay: float = DECAY, weight: float = WEIGHT
) -> Tensor:
    """Return the row w that makes ``w c + d |w|^2 / 2 - lambda log v`` least.

    It is ``-(d I - (2 lambda / v) S)^-1 c``, where v is its own variance: there is no closed form.
    In the eigenbasis of S, v is the root of a scalar equation beyond ``2 lambda s_1 / d``, with the
    largest eigenvalue ``s_1``. There the matrix is positive definite. So the row is the least one:
    a logarithm is below its tangents, and with the tangent at v the objective is a quadratic that
    is least at this row.

    Args:
        c_D: covariance of the responsibilities with the samples; it must not be orthogonal to the
            first eigenvector of S.
        covariance_DD: covariance of the samples.
        decay: the weight d of the decay.
        weight: the weight lambda of the variance's logarithm.
    """
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
    along_D, shares_D = vectors_DD.T @ c_D, values_D / values_D[-1]
    smallest = float(2 * weight * values_D[-1] / decay)

    def rows(part: float) -> Tensor:
        return -along_D / (decay * (1 - part * shares_D))

    def excess(part: float) -> float:
        return float((values_D * rows(part).square()).sum()) - smallest / part

    eps = torch.finfo(c_D.dtype).eps
    return vectors_DD @ rows(brentq(excess, eps, 1 - eps, xtol=eps, rtol=4 * eps))


def objective(
    r_N: Tensor,
    z_N: Tensor,
    length: Tensor,
    activation: Callable[[Tensor], Tensor],
    volume: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return what the M-step of a row makes least: ``<r E>`` and a volume term.

    Args:
        r_N: responsibilities of the unit, held fixed.
        z_N: pre-activations ``w (x - m)``, shape ``(..., N)``.
        length: the row's squared length, shape ``(...)``.
        activation: function from pre-activations to energies.
        volume: function of the squared length and the variance of the energies.
    """
    energies_N = activation(z_N)
    return (r_N * energies_N).mean(-1) + volume(length, energies_N.var(-1, correction=0))


def linear(z: Tensor) -> Tensor:
    """Return pre-activations as energies."""
    return z


def no_volume(length: Tensor, variance: Tensor) -> Tensor:
    """Return 0: no volume term."""
    return torch.zeros_like(variance)


def logarithm(length: Tensor, variance: Tensor) -> Tensor:
    """Return ``-lambda log v``."""
    return -WEIGHT * variance.log()


def penalty(length: Tensor, variance: Tensor) -> Tensor:
    """Return ``v / (2 s^2) - lambda log v``."""
    return variance / (2 * SCALE**2) + logarithm(length, variance)


def decay(length: Tensor, variance: Tensor) -> Tensor:
    """Return ``d |w|^2 / 2 - lambda log v``."""
    return DECAY * length / 2 + logarithm(length, variance)


VARIANTS = {
    "ReLU, none": (torch.relu, no_volume, "E = 0: a dead unit"),
    "ReLU, log variance": (torch.relu, logarithm, "exists, in no closed form"),
    "linear, none": (linear, no_volume, "none: no lower bound"),
    "linear, log variance": (linear, logarithm, "none: no lower bound"),
    "linear, log variance and penalty": (linear, penalty, "closed form: a regression"),
    "linear, log variance and decay": (linear, decay, "an eigenproblem and one root"),
}
"""Energies and volume terms: their functions, and the M-step that they have."""


def along_rows(r_N: Tensor, x_ND: Tensor, factors_F: Tensor) -> pd.DataFrame:
    """Return the objectives along the scale of a row, one column for each variant, in float64.

    The row is the M-step of the penalty or, for the decay, its own.

    Args:
        r_N: responsibilities, held fixed.
        x_ND: samples.
        factors_F: factors on the row, above 0; the column ``factor``.
    """
    r_N, x_ND, factors_F = r_N.double(), x_ND.double(), factors_F.double()
    c_D, covariance_DD = moments(r_N, x_ND)
    rows = penalised_row(c_D, covariance_DD), decayed_row(c_D, covariance_DD)
    z_RN = torch.stack(rows) @ (x_ND - x_ND.mean(0)).T
    columns = {"factor": factors_F.tolist()}
    for name, (activation, volume, _) in VARIANTS.items():
        own = 1 if volume is decay else 0
        z_FN, lengths_F = factors_F[:, None] * z_RN[own], factors_F**2 * rows[own].square().sum()
        columns[name] = objective(r_N, z_FN, lengths_F, activation, volume).tolist()
    return pd.DataFrame(columns)
