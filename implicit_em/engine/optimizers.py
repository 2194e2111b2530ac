"""One optimizer step for all replicas of a stack whose optimizers have equal settings."""

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer


def merge_steps(
    optimizers: Sequence[Optimizer | None],
) -> tuple[list[Callable[[], Any]], list[int]]:
    """Return a step for each set of equal settings, and the positions that none of them covers.

    An optimizer is ``None`` where more than its step moves the weights.
    """
    left_out: list[int] = []
    mergeable: dict[Any, list[Any]] = {}
    for position, optimizer in enumerate(optimizers):
        settings = settings_of(optimizer)
        if settings is None:
            left_out.append(position)
        else:
            mergeable.setdefault(settings, []).append(optimizer)
    merged = [merge_optimizers(equal) for equal in mergeable.values()]
    # Without torch's wrappers for profilers and hooks, which cost as much as the step.
    return [partial(inspect.unwrap(type(one).step), one) for one in merged], left_out


def settings_of(optimizer: Optimizer | None) -> Any:
    """Return a key that optimizers share if they can be merged; ``None`` if this one cannot be."""
    if optimizer is None or type(optimizer) not in (SGD, Adam, AdamW):  # these treat elements alone
        return None
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return None
    (group,) = optimizer.param_groups
    return type(optimizer), repr({k: v for k, v in group.items() if k != "params"})


def merge_optimizers(optimizers: Sequence[Optimizer]) -> Optimizer:
    """Return an optimizer of all parameters, which shares its state with those given."""
    if len(optimizers) == 1:
        return optimizers[0]
    merged = copy.copy(optimizers[0])
    parameters = [p for optimizer in optimizers for p in optimizer.param_groups[0]["params"]]
    merged.param_groups = [{**merged.param_groups[0], "params": parameters}]
    merged.state = defaultdict(dict)
    for optimizer in optimizers:
        merged.state |= {p: optimizer.state[p] for p in optimizer.param_groups[0]["params"]}
    return merged
