"""Which jobs of a sweep train together."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil
import torch
from hydra.utils import instantiate
from threadpoolctl import threadpool_limits

from implicit_em.base import interruption
from implicit_em.base.errors import ConfigError
from implicit_em.config.check import WIDTH_TRIED
from implicit_em.config.spec import RunSpec
from implicit_em.engine.rendezvous import Rendezvous, split_evenly
from implicit_em.training.progress import EpochProgress, logs_of

T = TypeVar("T")

MAX_STACK = 64
OF_THE_PROCESS = (
    *("accelerator", "precision", "threads", "deterministic", "benchmark"),
    *("detect_anomaly", "profiler"),
)
"""Flags of the Trainer that set something for a process."""
SHARED_PRECISIONS = ("32-true", "bf16-mixed")
"""Precisions that leave the default dtype of the process as it is."""
SHARE_OF_MEMORY = 0.8
WEIGHT_COPIES = 8
"""Weights, gradients, two moments, the stack's, the epoch's first and two in checkpoints."""
ENERGY_COPIES = 16
"""Tensors of the size of a batch's energies that a step makes, at most."""
INPUT_COPIES = 6
"""Tensors of the size of a batch that a step makes, with a decoder."""


def groups(runs: Sequence[RunSpec | None], max_stack: int = MAX_STACK) -> list[list[int]]:
    """Return the positions of the runs that train together; a run by itself is a group of one.

    The runs of a group share a process: its device, precision and threads. Within a group, runs
    are stacked if their models and loss terms are alike, whatever their seeds, weights of terms,
    optimizers and rates.

    Args:
        runs: runs of a sweep; ``None`` for a run that must not share its process.
        max_stack: most runs in a group. A group that memory would not hold is split.

    """
    alike: dict[Any, list[int]] = {}
    needed: dict[int, int] = {}
    for position, spec in enumerate(runs):
        shared = None if spec is None else _shared(spec)
        key = ("alone", position)
        if shared is not None:
            key, needed[position] = shared
        alike.setdefault(key, []).append(position)
    found = []
    for key, positions in alike.items():
        most = max_stack
        if len(positions) > 1:
            memory = int(SHARE_OF_MEMORY * _available(key[0]))
            most = max(1, min(most, memory // max(needed[position] for position in positions)))
        found += split_evenly(positions, most)
    return sorted(found)


def train_together(
    runs: Sequence[RunSpec],
    jobs: Sequence[Callable[[], T]],
    progress: EpochProgress | None = None,
    workers: int | None = None,
) -> list[T]:
    """Run jobs that train, each in a thread of its own, and return what they return.

    What a job logs goes to the handlers that it sets up itself, those of the process are for what
    else is logged.

    Args:
        runs: runs of a group.
        jobs: functions that train them, one a run.
        progress: progress over the epochs of all runs.
        workers: stacks that train at the same time; by default one for every core, or one for a
            device.

    Raises:
        Interrupted: after every job has saved where it was, if a signal asked for it.

    """
    trainer = runs[0].settings["trainer"]
    threads = trainer["threads"] or 1
    if workers is None:
        workers = max(1, cores() // threads) if trainer["accelerator"] == "cpu" else 1
    under_way: list[Future[T]] = []
    # The limits that each probe sets are the process's, and end in any order.
    with interruption.listening(), _handlers_by_thread() as assign, threadpool_limits(threads):
        rendezvous = Rendezvous(workers, threads, progress)
        try:
            for job in jobs:
                future, thread = rendezvous.start(job)
                under_way.append(future)
                assign(thread)
            rendezvous.conduct()
        finally:
            wait(under_way)
            rendezvous.close()
        return [future.result() for future in under_way]


@contextmanager
def _handlers_by_thread() -> Iterator[Callable[[threading.Thread], None]]:
    """Give a function that leaves the root logger's new handlers to what one thread logs."""
    root = logging.getLogger()
    own, here = list(root.handlers), logs_of(threading.current_thread())
    for handler in own:
        handler.addFilter(here)
    known = list(own)

    def assign(thread: threading.Thread) -> None:
        for handler in root.handlers:
            if handler not in known:
                handler.addFilter(logs_of(thread))
                known.append(handler)
        root.handlers = list(known)

    try:
        yield assign
    finally:
        for handler in own:
            handler.removeFilter(here)
        for handler in known[len(own) :]:
            handler.close()
        root.handlers = own


def progress_of(runs: Sequence[RunSpec]) -> EpochProgress | None:
    """Return one progress over the epochs of all runs, or ``None`` if no run wants one."""
    trainers = [spec.settings["trainer"] for spec in runs]
    if not any(trainer["enable_progress_bar"] for trainer in trainers):
        return None
    return EpochProgress(sum(trainer["max_epochs"] for trainer in trainers), len(runs))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_of(spec: RunSpec, in_features: int) -> int:
    """Return roughly the bytes that training a run takes; measuring it afterwards is not counted.

    Args:
        spec: the run.
        in_features: width D of its data.

    """
    with torch.device("meta"):
        model = instantiate(spec.model_arguments(in_features))
    batch, components = spec.settings["data"]["batch_size"], model.weight.shape[-2]
    elements = WEIGHT_COPIES * sum(parameter.numel() for parameter in model.parameters())
    elements += ENERGY_COPIES * batch * components + INPUT_COPIES * batch * in_features
    elements += 2 * min(batch, components) ** 2
    return 4 * elements


def _shared(spec: RunSpec) -> tuple[tuple[Any, ...], int] | None:
    """Return what a run shares with others of its group and the memory that it needs.

    ``None`` stands for a run that trains by itself.
    """
    trainer = spec.settings["trainer"]
    on_cpu = trainer["accelerator"] == "cpu"
    if (
        trainer["precision"] not in SHARED_PRECISIONS
        or trainer["accelerator"] not in ("cpu", "gpu", "cuda")
        # Several threads cut a tensor into pieces by its size, a compiler makes code for its
        # shape: a stack would not round as a run alone does.
        or (on_cpu and (trainer["threads"] != 1 or trainer["compile"]))
        or trainer["strategy"] != "auto"
        or (trainer["devices"], trainer["num_nodes"]) != (1, 1)
    ):
        return None
    try:
        width = spec.build_data().in_features
    except ConfigError:  # the run itself will say so
        return None
    if _draws(spec):
        return None
    return tuple(trainer[key] for key in OF_THE_PROCESS), memory_of(spec, width)


def _draws(spec: RunSpec) -> bool:
    """Return whether a step draws random numbers: a process has only one stream of them."""
    with torch.random.fork_rng(devices=[]):
        module = spec.build_module(WIDTH_TRIED)
        x = torch.rand(8, WIDTH_TRIED)
        before = torch.get_rng_state()
        module.objective({"x": x, **module.outputs(module.model, x)})
        return not torch.equal(before, torch.get_rng_state())


def _available(accelerator: str) -> int:
    if accelerator == "cpu":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info()[0]
