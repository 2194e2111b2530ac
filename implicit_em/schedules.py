"""Learning-rate schedules: the factor on the base rate as a function of progress in [0, 1]."""

import math

from implicit_em.base.values import check_number


def cosine(progress: float, warmup: float = 0.0, final: float = 0.0) -> float:
    """Linear warm-up to 1, then half a cosine down to ``final`` (Loshchilov and Hutter 2017).

    Args:
        progress: share of the optimizer steps made so far.
        warmup: share of the steps over which the factor rises from 0.
        final: factor at the end.

    Raises:
        ValueError: if ``warmup`` or ``final`` is not in [0, 1].
    """
    for name, share in (("warmup", warmup), ("final", final)):
        check_number(name, share, lambda x: 0 <= x <= 1, "numbers in [0, 1]")
    if progress < warmup:
        return progress / warmup
    remaining = (progress - warmup) / (1 - warmup) if warmup < 1 else 1.0
    return final + (1 - final) * (1 + math.cos(math.pi * remaining)) / 2
