"""Which jobs of a sweep train together."""

import os
from collections.abc import Sequence
from typing import Any

import psutil
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from implicit_em.config import module_arguments, to_plain
from implicit_em.errors import ConfigError
from implicit_em.modules import module_class
from implicit_em.rendezvous import Rendezvous
from implicit_em.terminal import EpochProgress
from implicit_em.training import load_data

MAX_STACK = 64
PRECISIONS = ("32-true", "bf16-mixed")
"""Those that leave the default dtype of the process as it is."""
SHARE_OF_MEMORY = 0.8
WEIGHT_COPIES = 8
"""Weights, gradients, two moments, the stack's, the epoch's first and two in checkpoints."""
ENERGY_COPIES = 16
"""Tensors of the size of a batch's energies that a step makes, at most."""
INPUT_COPIES = 6
"""Tensors of the size of a batch that a step makes, with a decoder."""


def groups(runs: Sequence[DictConfig | None], max_stack: int = MAX_STACK) -> list[list[int]]:
    """Return the positions of the runs that train together; a run by itself is a group of one.

    Runs of a group share a process: its device, precision and threads. Within it those are stacked
    whose models and loss terms are alike, whatever their seeds, weights of terms, optimizers and
    rates.

    Args:
        runs: composed configurations, without Hydra's own node; ``None`` for a run that must not
            share its process.
        max_stack: most runs in a group. A group that memory would not hold is split.

    """
    alike: dict[Any, list[int]] = {}
    plain = [None if cfg is None else to_plain(cfg) for cfg in runs]
    for position, cfg in enumerate(plain):
        key = None if cfg is None else _likeness(cfg)
        alike.setdefault(("alone", position) if key is None else key, []).append(position)
    found = []
    for key, positions in alike.items():
        most = max_stack
        if len(positions) > 1:
            needed = max(memory_of(cfg) for p in positions if (cfg := plain[p]) is not None)
            most = max(1, min(most, int(SHARE_OF_MEMORY * _available(key[0])) // needed))
        pieces = -(-len(positions) // most)
        size = -(-len(positions) // pieces)
        found += [positions[start : start + size] for start in range(0, len(positions), size)]
    return sorted(found)


def rendezvous_for(
    runs: Sequence[DictConfig], progress: EpochProgress | None = None, workers: int | None = None
) -> Rendezvous:
    """Return where the runs of a group meet.

    Args:
        runs: their configurations.
        progress: of all runs.
        workers: that train at the same time; by default one for every core, or one for a device.

    """
    trainer = runs[0].trainer
    threads = trainer.threads or 1
    if trainer.accelerator == "cpu":
        return Rendezvous(workers or max(1, cores() // threads), threads, progress)
    return Rendezvous(1, threads, progress)


def progress_of(runs: Sequence[DictConfig]) -> EpochProgress | None:
    """Return one progress over the epochs of all runs, where they want one."""
    if not any(cfg.trainer.enable_progress_bar for cfg in runs):
        return None
    return EpochProgress(sum(cfg.trainer.max_epochs for cfg in runs), len(runs))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_of(cfg: dict[str, Any]) -> int:
    """Return the bytes that training a run takes, roughly and rather too many.

    Args:
        cfg: the plain configuration.

    """
    width = load_data(cfg).in_features
    with torch.device("meta"):
        model = instantiate({**cfg["model"], "in_features": width})
    batch, components = cfg["data"]["batch_size"], cfg["model"]["hidden"]
    elements = WEIGHT_COPIES * sum(parameter.numel() for parameter in model.parameters())
    elements += ENERGY_COPIES * batch * components + INPUT_COPIES * batch * width
    elements += 2 * min(batch, components) ** 2
    return 4 * elements


def _likeness(cfg: dict[str, Any]) -> tuple[Any, ...] | None:
    """Return what runs of a group have in common; ``None`` for a run by itself."""
    trainer = cfg["trainer"]
    on_cpu = trainer["accelerator"] == "cpu"
    if (
        trainer["precision"] not in PRECISIONS
        or trainer["accelerator"] not in ("cpu", "gpu", "cuda")
        # Several threads cut a tensor into pieces by its size, a compiler makes code for its
        # shape: a stack would not round as a run alone does.
        or (on_cpu and (trainer["threads"] != 1 or trainer["compile"]))
        or trainer["strategy"] != "auto"
        or (trainer["devices"], trainer["num_nodes"]) != (1, 1)
    ):
        return None
    try:
        width = load_data(cfg).in_features
    except ConfigError:  # the run will say so itself
        return None
    if _draws(cfg, width):
        return None
    process_wide = ("accelerator", "precision", "threads", "deterministic", "benchmark")
    return tuple(trainer[key] for key in process_wide)


def _draws(cfg: dict[str, Any], width: int) -> bool:
    """Return whether a step draws random numbers, of which a process has one stream."""
    with torch.random.fork_rng(devices=[]):
        module = module_class(cfg["model"]["_target_"])(**module_arguments(cfg, width))
        x = torch.rand(8, width)
        before = torch.get_rng_state()
        module.objective({"x": x, **module.outputs(module.model, x)})
        return not torch.equal(before, torch.get_rng_state())


def _available(accelerator: str) -> int:
    if accelerator == "cpu":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info()[0]
