"""Terms of models that reconstruct: errors, penalties on activity, and the rest of a score."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from implicit_em.codes import Code
from implicit_em.losses.stacking import makes_sparse, takes_codes, takes_stacks


@takes_stacks
def mse(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all elements of ``(..., B, D)``.

    The target of a model is its input, unless ``data.target`` names another.
    """
    return _SquaredError.apply(*torch.broadcast_tensors(reconstruction, target))


class _SquaredError(Function):
    """The mean square of a difference, with the rounding of autograd and fewer tensors.

    The reconstructions are the largest tensors of a stack, and on a CPU fresh memory costs more
    than the arithmetic. So a CPU squares one replica at a time.
    """

    @staticmethod
    def forward(ctx: Any, reconstruction: Tensor, target: Tensor) -> Tensor:
        difference = reconstruction - target
        ctx.save_for_backward(difference)
        if difference.device.type != "cpu":
            return difference.square().mean((-2, -1))
        replicas = difference.reshape(-1, 1, *difference.shape[-2:])
        means = [replica.square().mean((-2, -1)) for replica in replicas]
        return torch.cat(means).view(difference.shape[:-2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        (difference,) = ctx.saved_tensors
        size = difference.shape[-2] * difference.shape[-1]
        slope = difference * (2 * (grad / size)[..., None, None])
        return slope, -slope if ctx.needs_input_grad[1] else None


@takes_stacks
def nested_mse(prefixes: Tensor, target: Tensor) -> Tensor:
    """Mean of the errors of P nested dictionaries (Bussmann et al. 2025, arXiv 2503.17547).

    The paper takes the sum.

    Args:
        prefixes: the reconstructions, shape ``(..., B, P, D)``.
        target: what is to be explained, shape ``(..., B, D)``.
    """
    return mse(prefixes.movedim(-2, -3), target.unsqueeze(-3)).mean(-1)


@makes_sparse
@takes_codes
@takes_stacks
def l1(energies: Tensor | Code) -> Tensor:
    """Mean absolute activation over all elements of ``(..., B, K)``; an SAE's sparsity penalty."""
    return energies.abs().mean((-2, -1))


@makes_sparse
@takes_codes
@takes_stacks
def l1_norm(energies: Tensor | Code, decoder: Tensor) -> Tensor:
    """L1 weighted by the lengths of the decoder's columns, ``mean |a_j| ||W_d,j||``.

    Growing the decoder's columns does not evade this penalty (Conerly et al. 2024, Circuits
    Updates, April: Update on how we train SAEs).

    Args:
        energies: activations, shape ``(..., B, K)``.
        decoder: decoder matrix, shape ``(..., D, K)``.
    """
    lengths = decoder.square().sum(-2, keepdim=True).sqrt()
    return l1(energies * lengths)


@takes_stacks
def auxk(auxiliary: Tensor, reconstruction: Tensor, target: Tensor) -> Tensor:
    """Error with which dead units reconstruct the residual of the other units (Gao et al. 2024).

    It is the mean square over all elements of ``(..., B, D)``. No gradient goes through the
    residual. Without dead units, the auxiliary reconstruction and this term are 0.
    """
    if not auxiliary.requires_grad:
        return auxiliary.new_zeros(auxiliary.shape[:-2])
    missing = (target - reconstruction).detach()
    some_dead = auxiliary.any(-1).any(-1)
    return mse(auxiliary, missing) * some_dead


@takes_codes
@takes_stacks
def target_l0(active: Tensor | Code, k: Tensor) -> Tensor:
    """Squared relative distance of the mean number of active units from its target.

    ``(L0 / k - 1)^2``, Rajamanoharan et al. 2024, arXiv 2407.14435.

    Args:
        active: 1 for active units and 0 for others, with a gradient, shape ``(..., B, K)``.
        k: target number of active units, shape ``(...)``.
    """
    return (active.sum(-1).mean(-1) / k - 1).square()


@makes_sparse
@takes_codes
@takes_stacks
def gates_l1(gates: Tensor | Code) -> Tensor:
    """Mean absolute gate over all elements (Rajamanoharan et al. 2024, arXiv 2404.16014)."""
    return l1(gates)


@takes_stacks
def gates_mse(auxiliary: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the gates' own reconstruction (Rajamanoharan et al., as above)."""
    return mse(auxiliary, target)


@takes_codes
@takes_stacks
def slab(slab: Tensor | Code, decoder: Tensor) -> Tensor:
    """Posterior uncertainty of units that are on or off, in the direction of their rows.

    With ``mse`` it is score matching of ``models.SpikeSlab``, times 2 / D: ``||x - m - W^T E||^2 /
    2 + sum_j ||w_j||^2 (T r_j + r_j (1 - r_j) z_j^2 / 2)``, a mean over samples. The second part
    comes from the divergence of the reconstruction and the variance of the posterior.

    Args:
        slab: what a squared row length of 1 adds for each unit, shape ``(..., B, K)``.
        decoder: the rows W, transposed, shape ``(..., D, K)``.
    """
    lengths = decoder.square().sum(-2, keepdim=True)
    return (slab * lengths).mean((-2, -1)) * (2 * decoder.shape[-1] / decoder.shape[-2])
