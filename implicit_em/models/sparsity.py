"""Sparsity by selection: the largest activations of each row."""

from collections.abc import Sequence

import torch
from torch import Tensor


def keep_largest(activations: Tensor, count: int | Sequence[int]) -> Tensor:
    """Return the largest elements of each row, and 0 for the others.

    Among equal elements the first ones are kept. With ``torch.topk`` alone, the choice among them
    may depend on the other rows.

    Args:
        activations: shape ``(..., N)``.
        count: number of elements to keep in each row; for a stack ``(R, ..., N)`` a number for each
            replica is possible.

    """
    each = [count] if isinstance(count, int) else list(count)
    if max(each) == 0:
        return torch.zeros_like(activations)
    if min(each) >= activations.shape[-1]:
        return activations
    with torch.no_grad():
        largest = activations.topk(max(each)).values
        if min(each) == max(each):
            least, counts = largest[..., -1:], activations.new_tensor(each[0])
        else:
            rows = [row[..., n - 1 : n] for row, n in zip(largest, each, strict=True)]
            least = torch.stack(rows)
            counts = activations.new_tensor(each).view(-1, *[1] * (activations.dim() - 1))
        above = activations > least
        equal = activations == least
        kept = above | (equal & (equal.cumsum(-1) <= counts - above.sum(-1, keepdim=True)))
    return activations * kept
