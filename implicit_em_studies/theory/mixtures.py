"""Explicit EM of the mixture in forms that no Trainer has, and k-means, its hard limit.

The mixture is that of ``models.Mixture``: Gaussians of variance 1. What all components share is
left out of energies, so that LSE is the negative log-likelihood up to a constant of the samples.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from implicit_em.models import Mixture

PART = 4_000
"""Number of samples whose energies are in memory at a time."""
DEAD = 1e-6
"""Number of samples below which a component explains nothing, and its mean stays where it is. A
smaller count may be rounding alone, as what is left of sums that were added and subtracted."""


class Fit(NamedTuple):
    """A mixture: its means, shape ``(K, D)``, and the logarithms of its weights, ``(K,)``."""

    means_KD: Tensor
    log_weights_K: Tensor

    @classmethod
    def of(cls, model: Mixture) -> "Fit":
        """Return the mixture of a model, in float64."""
        logits_K = model.linear.bias.detach().double()
        return cls(model.weight.detach().double(), logits_K.log_softmax(-1))

    def to(self, dtype: torch.dtype) -> "Fit":
        """Return the mixture in a precision."""
        return Fit(self.means_KD.to(dtype), self.log_weights_K.to(dtype))

    def model(self) -> Mixture:
        """Return it as a model, in float32."""
        model = Mixture(self.means_KD.shape[1], len(self.means_KD))
        model.weight.data.copy_(self.means_KD)
        model.linear.bias.data.copy_(self.log_weights_K)
        return model

    def energies(self, x_ND: Tensor) -> Tensor:
        """Return ``-w_j x + |w_j|^2 / 2 - log pi_j``, shape ``(N, K)``."""
        return self.means_KD.square().sum(1) / 2 - self.log_weights_K - x_ND @ self.means_KD.T


class Statistics(NamedTuple):
    """Sums over samples: of r, ``(K,)``; of r x, ``(K, D)``; of the entropies of r; and of LSE."""

    counts_K: Tensor
    sums_KD: Tensor
    entropy: Tensor
    lse: Tensor


def e_step(x_ND: Tensor, fit: Fit) -> Statistics:
    """Return the sums over samples with the responsibilities of a mixture, in float64.

    The responsibilities have the precision of the samples.
    """
    logits_NK = -fit.to(x_ND.dtype).energies(x_ND)
    log_r_NK = logits_NK.log_softmax(1)
    r_NK = log_r_NK.exp()
    sums = (
        r_NK.sum(0),
        r_NK.T @ x_ND,
        -(r_NK * log_r_NK).sum(),
        -logits_NK.logsumexp(1).sum(dtype=torch.float64),
    )
    return Statistics(*(value.double() for value in sums))


def total_of(parts: Iterable[Statistics]) -> Statistics:
    """Return the sums over all parts."""
    return Statistics(*(torch.stack(values).sum(0) for values in zip(*parts, strict=True)))


def m_step(total: Statistics, before: Fit) -> Fit:
    """Return the mixture that fits statistics best; a component without samples keeps its mean."""
    counts_K1 = total.counts_K[:, None]
    means_KD = torch.where(counts_K1 > DEAD, total.sums_KD / counts_K1, before.means_KD)
    weights_K = total.counts_K / total.counts_K.sum()
    return Fit(means_KD, weights_K.clamp_min(torch.finfo(weights_K.dtype).tiny).log())


def free_energy(total: Statistics, fit: Fit) -> float:
    """Return ``sum_j r_j E_j + sum_j r_j log r_j``, mean over the samples.

    It is an upper bound of LSE, and LSE itself if the responsibilities are those of the mixture
    (Neal and Hinton 1998).
    """
    biases_K = fit.means_KD.square().sum(1) / 2 - fit.log_weights_K
    energy = (total.counts_K * biases_K).sum() - (total.sums_KD * fit.means_KD).sum()
    return float((energy - total.entropy) / total.counts_K.sum())


def exact(x_ND: Tensor, start: Fit, passes: int) -> Iterator[tuple[float, Fit]]:
    """Yield, after each pass of EM in float64, the mean LSE before its M-step, and the mixture.

    Dempster, Laird and Rubin 1977. The samples may have another precision.
    """
    fit = start.to(torch.float64)
    for _ in range(passes):
        total = total_of(e_step(part_ND.double(), fit) for part_ND in x_ND.split(PART))
        fit = m_step(total, fit)
        yield float(total.lse) / len(x_ND), fit


def incremental(
    x_ND: Tensor, start: Fit, blocks: int, passes: int
) -> Iterator[tuple[Fit, list[float]]]:
    """Yield, after each pass, the mixture and the free energy after each of its M-steps.

    Incremental EM (Neal and Hinton 1998): the statistics of each block are kept. An E-step replaces
    those of one block, and an M-step fits their sum. The free energy never rises. The first pass is
    one of exact EM, which gives each block its first statistics.

    Args:
        x_ND: samples.
        start: the mixture before.
        blocks: number of blocks, which follow one another in the samples.
        passes: number of passes over the samples.
    """
    parts = x_ND.split(-(-len(x_ND) // blocks))
    kept = [e_step(part_ND, start) for part_ND in parts]
    total = total_of(kept)
    fit = m_step(total, start.to(torch.float64))
    yield fit, [free_energy(total, fit)]
    for _ in range(passes - 1):
        energies = []
        for number, part_ND in enumerate(parts):
            new = e_step(part_ND, fit)
            changes = zip(total, kept[number], new, strict=True)
            total = Statistics(*(value - old + now for value, old, now in changes))
            kept[number] = new
            fit = m_step(total, fit)
            energies.append(free_energy(total, fit))
        yield fit, energies


def kmeans(x_ND: Tensor, start: Fit, passes: int) -> Fit:
    """Return the centres of k-means and the clusters' shares, after at most so many passes.

    It is EM with the variance taken to 0, where each sample belongs to the nearest mean alone.
    """
    from sklearn.cluster import KMeans

    first_KD = start.means_KD.to(x_ND.dtype).numpy()
    found = KMeans(len(first_KD), init=first_KD, n_init=1, max_iter=passes, tol=0).fit(x_ND.numpy())
    counts_K = torch.from_numpy(found.labels_).long().bincount(minlength=len(first_KD)).double()
    return Fit(
        torch.from_numpy(found.cluster_centers_).double(),
        (counts_K / len(x_ND)).clamp_min(torch.finfo(torch.float64).tiny).log(),
    )


def gradient_against_m_step(x_ND: Tensor, fit: Fit) -> dict[str, float]:
    """Compare a gradient step on mean LSE, with a preconditioner, with the M-step, in float64.

    The preconditioner is ``1 / <r_j>`` for the means. The gradient at the logits of the weights is
    subtracted from the weights themselves (Xu and Jordan 1996). Autograd differentiates LSE of the
    tied layer. The M-step is that of the densities, from their definition.

    Returns:
        ``error``: largest difference, divided by the largest entry of the M-step, of means or
        weights; ``lowest_rate`` and ``largest_rate``: the rates ``1 / <r_j>`` that an M-step
        chooses.
    """
    x_ND = x_ND.double()
    means_KD, logits_K = (value.double().clone().requires_grad_() for value in fit)
    biases_K = logits_K.log_softmax(-1) - means_KD.square().sum(1) / 2
    loss = -(x_ND @ means_KD.T + biases_K).logsumexp(1).mean()
    slope_KD, slope_K = torch.autograd.grad(loss, (means_KD, logits_K))
    with torch.no_grad():
        weights_K = logits_K.softmax(-1)
        directly = "donot_use_mm_for_euclid_dist"
        distances_NK = torch.cdist(x_ND, means_KD, compute_mode=directly)
        r_NK = (weights_K.log() - distances_NK.square() / 2).softmax(1)
        shares_K = r_NK.mean(0)
        expected_KD = r_NK.T @ x_ND / (len(x_ND) * shares_K[:, None])
        of_means = (means_KD - slope_KD / shares_K[:, None] - expected_KD).abs().max()
        of_weights = (weights_K - slope_K - shares_K).abs().max()
        errors = of_means / expected_KD.abs().max(), of_weights / shares_K.max()
        return {
            "error": float(torch.stack(errors).max()),
            "lowest_rate": float(1 / shares_K.max()),
            "largest_rate": float(1 / shares_K.min()),
        }
