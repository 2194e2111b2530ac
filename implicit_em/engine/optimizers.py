"""One optimizer step for all replicas of a stack whose optimizers have equal settings."""

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer

ELEMENTWISE = (SGD, Adam, AdamW)
"""Optimizers that treat each element by itself: one call may update any number of parameters."""


def merge_steps(
    optimizers: Sequence[Optimizer | None],
) -> tuple[list[Callable[[], Any]], list[int]]:
    """Return one step for all optimizers of equal settings, and which ones cannot be merged.

    Args:
        optimizers: one for each replica, each of one parameter group; ``None`` where more than its
            step moves the weights.

    Returns:
        The steps to call, and the positions of the replicas that they leave out.

    """
    left_out: list[int] = []
    mergeable: dict[Any, list[Any]] = {}
    for position, optimizer in enumerate(optimizers):
        settings = settings_of(optimizer)
        if settings is None:
            left_out.append(position)
        else:
            mergeable.setdefault(settings, []).append(optimizer)
    return [_bare_step(merge_optimizers(equal)) for equal in mergeable.values()], left_out


def settings_of(optimizer: Optimizer | None) -> Any:
    """Return a key that optimizers share if they can be merged; ``None`` if this one cannot be."""
    if optimizer is None or type(optimizer) not in ELEMENTWISE:
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


def _bare_step(optimizer: Optimizer) -> Callable[[], Any]:
    """Return the step without torch's wrappers for profilers and hooks, which cost as much."""
    return partial(inspect.unwrap(type(optimizer).step), optimizer)
