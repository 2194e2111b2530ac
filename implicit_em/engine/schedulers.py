"""Learning rates that change: by a function of progress, or by a scheduler of torch."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from hydra.utils import get_object, instantiate
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from implicit_em.base.errors import ConfigError, raising

OWN_KEYS = ("interval", "monitor", "schedulers")
"""Keys of a schedule that torch's scheduler does not take as they are."""
MONITORED = "train/loss"
"""The mean of an epoch that ``ReduceLROnPlateau`` watches by default."""


def is_scheduler(schedule: Mapping[str, Any]) -> bool:
    """Return whether a schedule names a scheduler of torch, not a function of progress.

    Raises:
        ConfigError: if it names nothing that can be imported.
    """
    with raising(ConfigError, "lr.schedule", Exception):  # a module may raise any when imported
        target = get_object(schedule["_target_"])
    return isinstance(target, type) and issubclass(target, LRScheduler)


def interval_of(schedule: Mapping[str, Any]) -> str:
    """Return ``step`` or ``epoch``: after each step or epoch, the learning rate changes."""
    return schedule.get("interval", "epoch") if is_scheduler(schedule) else "step"


def build_schedule(schedule: Mapping[str, Any], optimizer: Optimizer, calls: int) -> Any:
    """Return the scheduler of an optimizer.

    Args:
        schedule: ``_target_`` and arguments, as ``EnergyModule`` takes them.
        optimizer: optimizer whose learning rate changes.
        calls: number of times that the whole training calls the scheduler's ``step``.

    Raises:
        ConfigError: if the scheduler is made for fewer calls.
    """
    if not is_scheduler(schedule):
        factor = instantiate(schedule, _partial_=True)
        return LambdaLR(optimizer, partial(_factor_at, factor=factor, steps=calls))
    scheduler = _build_scheduler(schedule, optimizer)
    total = getattr(scheduler, "total_steps", calls)
    if total < calls:
        raise ConfigError(f"lr.schedule.total_steps={total}: the run needs at least {calls}")
    return scheduler


def step_after_epoch(scheduler: Any, schedule: Mapping[str, Any], means: Mapping[str, Any]) -> None:
    """Change the learning rate after an epoch, given the epoch's means by name: ``train/...``."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(means[schedule.get("monitor", MONITORED)])
    else:
        scheduler.step()


def _build_scheduler(schedule: Mapping[str, Any], optimizer: Optimizer) -> Any:
    """Return a scheduler of torch, with the schedulers that it is composed of."""
    parts = [_build_scheduler(part, optimizer) for part in schedule.get("schedulers", ())]
    composed_of = {"schedulers": parts} if parts else {}
    arguments = {key: value for key, value in schedule.items() if key not in OWN_KEYS}
    build = instantiate(arguments, _partial_=True, _convert_="all")
    return build(optimizer=optimizer, **composed_of)


def _factor_at(step: int, factor: Any, steps: int) -> float:
    return factor(progress=min(step / steps, 1.0))
