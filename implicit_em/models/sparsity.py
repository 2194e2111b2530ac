"""Which activations are kept: the largest of each row."""

from collections.abc import Sequence

import torch
from torch import Tensor


def keep_largest(activations: Tensor, count: int | Sequence[int]) -> Tensor:
    """Return the largest of each row, the others 0; of equal ones those that come first.

    So no choice depends on what else is in the tensor, as that of ``torch.topk`` may.

    Args:
        activations: shape ``(..., N)``.
        count: how many of each row; of the rows of a stack, ``(R, ..., N)``, a number each.

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
