"""Which jobs of a sweep train together."""

import os
from collections.abc import Sequence
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from implicit_em.config import to_plain
from implicit_em.errors import ConfigError
from implicit_em.rendezvous import Rendezvous
from implicit_em.terminal import EpochProgress
from implicit_em.training import load_data

PRECISIONS = ("32-true", "bf16-mixed")
"""Those that leave the default dtype of the process as it is."""
SHARE_OF_MEMORY = 0.8
WEIGHT_COPIES = 8
"""Weights, gradients, two moments, the stack's, the epoch's first and two in checkpoints."""
ENERGY_COPIES = 16
"""Tensors of the size of a batch's energies that a step makes, at most."""
INPUT_COPIES = 6
"""Tensors of the size of a batch that a step makes, with a decoder."""


def groups(jobs: Sequence[DictConfig], max_stack: int) -> list[list[int]]:
    """Return the positions of the jobs that train together; a job by itself is a group of one.

    Jobs of a group share a process: its device, precision and threads. Within it those are stacked
    whose models and loss terms are alike, whatever their seeds, weights of terms, optimizers and
    rates.

    Args:
        jobs: composed configurations, Hydra's own node included.
        max_stack: most jobs in a group. A group that memory would not hold is split.

    """
    alike: dict[Any, list[int]] = {}
    for position, job in enumerate(jobs):
        key = _likeness(job)
        alike.setdefault(("alone", position) if key is None else key, []).append(position)
    found = []
    for key, positions in alike.items():
        pieces = -(-len(positions) // max_stack)
        if len(positions) > 1:
            needed = sum(memory_of(to_plain(_task(jobs[position]))) for position in positions)
            pieces = max(pieces, -(-needed // int(SHARE_OF_MEMORY * _available(key))))
        size = max(1, len(positions) // pieces + (len(positions) % pieces > 0))
        found += [positions[start : start + size] for start in range(0, len(positions), size)]
    return sorted(found)


def rendezvous_for(jobs: Sequence[DictConfig]) -> Rendezvous:
    """Return where the jobs of a group meet, with one progress for all of them."""
    trainer = jobs[0].trainer
    shown = any(job.trainer.enable_progress_bar for job in jobs)
    epochs = sum(job.trainer.max_epochs for job in jobs)
    progress = EpochProgress(epochs, len(jobs)) if shown else None
    if trainer.accelerator == "cpu":
        return Rendezvous(max(1, _cores() // trainer.threads), trainer.threads, progress)
    return Rendezvous(1, trainer.threads or 1, progress)


def memory_of(cfg: dict[str, Any]) -> int:
    """Return the bytes that training a run takes, roughly and rather too many.

    Args:
        cfg: the plain configuration.

    """
    import torch

    width = load_data(cfg).in_features
    with torch.device("meta"):
        model = instantiate({**cfg["model"], "in_features": width})
    batch, components = cfg["data"]["batch_size"], cfg["model"]["hidden"]
    elements = WEIGHT_COPIES * sum(parameter.numel() for parameter in model.parameters())
    elements += ENERGY_COPIES * batch * components + INPUT_COPIES * batch * width
    elements += 2 * min(batch, components) ** 2
    return 4 * elements


def _likeness(job: DictConfig) -> Any:
    """Return what jobs of a group have in common; ``None`` for a job that runs by itself."""
    hydra, cfg = job.hydra, _task(job)
    if hydra.job.chdir or hydra.job.env_set or "trainer" not in cfg or "model" not in cfg:
        return None
    plain = to_plain(cfg)
    trainer = plain["trainer"]
    if trainer["precision"] not in PRECISIONS or trainer["devices"] not in (1, "1"):
        return None
    if trainer["accelerator"] == "cpu":
        # With several threads torch cuts a tensor into pieces by its size, a stack in others.
        if trainer["threads"] != 1:
            return None
    elif trainer["accelerator"] not in ("gpu", "cuda"):
        return None
    if trainer["strategy"] != "auto" or trainer["num_nodes"] != 1:
        return None
    try:
        load_data(plain)
    except ConfigError:  # the job will say so itself
        return None
    process_wide = ("accelerator", "precision", "threads", "deterministic", "benchmark")
    return tuple(trainer[key] for key in process_wide)


def _task(job: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _available(key: tuple[Any, ...]) -> int:
    import psutil
    import torch

    if key[0] == "cpu":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info()[0]
