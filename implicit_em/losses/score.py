"""The term of score matching that a squared error lacks."""

from torch import Tensor

from implicit_em.codes import Code
from implicit_em.losses.stacking import takes_codes, takes_stacks


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
