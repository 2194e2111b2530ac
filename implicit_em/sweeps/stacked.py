"""Jobs of a sweep that train together: which ones, and how."""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil
import torch
from threadpoolctl import threadpool_limits

from implicit_em.base import interruption
from implicit_em.base.allocation import keep_freed_memory
from implicit_em.base.errors import ConfigError
from implicit_em.base.threads import cores
from implicit_em.engine.rendezvous import Rendezvous, split_evenly
from implicit_em.training.check import memory_of, widths_tried
from implicit_em.training.history import EpochProgress
from implicit_em.training.spec import RunSpec

T = TypeVar("T")

MAX_STACK = 64
OF_THE_PROCESS = (
    *("accelerator", "precision", "threads", "deterministic", "benchmark"),
    *("detect_anomaly", "profiler"),
)
"""Settings of ``trainer`` that apply to the whole process."""
OF_A_GROUP = ("data", "model", "loss", "trainer")
"""Settings that decide which runs may be stacked."""
SHARED_PRECISIONS = ("32-true", "bf16-mixed")
"""Precisions that do not change the default dtype of the process."""
SHARE_OF_MEMORY = 0.8


def groups(runs: Sequence[RunSpec | None], max_stack: int = MAX_STACK) -> list[list[int]]:
    """Return the positions of the runs that train together; a single run is a group of one.

    The runs of a group share the device, precision and threads of a process. Runs of a group whose
    models and loss terms are alike are stacked. Seeds, weights, optimizers and rates may differ.
    ``None`` stands for a run that must train alone. A group that needs too much memory is split.
    """
    alike: dict[Any, list[int]] = {}
    memory: dict[int, int] = {}
    known: dict[str, Any] = {}
    for position, spec in enumerate(runs):
        shared = None
        if spec is not None:
            settings = json.dumps([spec.settings.get(name) for name in OF_A_GROUP])
            if settings not in known:
                known[settings] = _shared(spec)
            shared = known[settings]
        key = ("alone", position)
        if shared is not None:
            key, memory[position] = shared
        alike.setdefault(key, []).append(position)
    together = []
    for key, positions in alike.items():
        most = max_stack
        if len(positions) > 1:
            available = int(SHARE_OF_MEMORY * _available(key[0]))
            most = max(1, min(most, available // max(memory[position] for position in positions)))
        together += split_evenly(positions, most)
    return sorted(together)


def train_together(
    runs: Sequence[RunSpec],
    jobs: Sequence[Callable[[], T]],
    progress: EpochProgress | None = None,
    workers: int | None = None,
) -> list[T]:
    """Run each job in a thread of its own, and return the results of the jobs.

    A job logs only to the logging handlers that it sets up itself.

    Args:
        runs: runs of a group.
        jobs: functions that train the runs, in the same order.
        progress: progress over the epochs of all runs, see ``progress_of``.
        workers: number of stacks that train at the same time; by default one for each core, or one
            on a GPU.

    Raises:
        Interrupted: if a signal asked for it, after every job has saved its state.
    """
    trainer = runs[0].settings["trainer"]
    threads = trainer["threads"] or 1
    if workers is None:
        workers = max(1, cores() // threads) if trainer["accelerator"] == "cpu" else 1
    under_way: list[Future[T]] = []
    keep_freed_memory()  # before the threads start
    # Each probe limits the threads of the process for a while, and they end in any order.
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
    """Yield a function that restricts new handlers of the root logger to one thread's records."""

    def records_of(thread: threading.Thread) -> Callable[[logging.LogRecord], bool]:
        return lambda record: threading.current_thread() is thread  # a later one may have its ident

    root = logging.getLogger()
    before, in_this_thread = list(root.handlers), records_of(threading.current_thread())
    for handler in before:
        handler.addFilter(in_this_thread)
    assigned: list[logging.Handler] = []

    def assign(thread: threading.Thread) -> None:
        for handler in root.handlers:
            if handler not in before + assigned:
                handler.addFilter(records_of(thread))
                assigned.append(handler)
        root.handlers = before + assigned

    try:
        yield assign
    finally:
        for handler in before:
            handler.removeFilter(in_this_thread)
        for handler in assigned:
            handler.close()
        root.handlers = before


def progress_of(runs: Sequence[RunSpec]) -> EpochProgress | None:
    """Return the progress over the epochs of all runs, or ``None`` if no run shows progress."""
    trainers = [spec.settings["trainer"] for spec in runs]
    if not any(trainer["enable_progress_bar"] for trainer in trainers):
        return None
    return EpochProgress(sum(trainer["max_epochs"] for trainer in trainers), len(runs))


def _shared(spec: RunSpec) -> tuple[tuple[Any, ...], int] | None:
    """Return the settings that a group has in common and the run's memory; ``None``: no group."""
    trainer = spec.settings["trainer"]
    on_cpu = trainer["accelerator"] == "cpu"
    if (
        trainer["precision"] not in SHARED_PRECISIONS
        or trainer["accelerator"] not in ("cpu", "gpu", "cuda")
        # Several threads divide a tensor by its size, and a compiler makes code for its shape:
        # the rounding in a stack would differ from the rounding of a single run.
        or (on_cpu and (trainer["threads"] != 1 or trainer["compile"]))
        or trainer["strategy"] != "auto"
        or (trainer["devices"], trainer["num_nodes"]) != (1, 1)
    ):
        return None
    try:
        data = spec.build_data()
    except ConfigError:  # the run itself will raise it
        return None
    if _draws(spec):
        return None
    memory = memory_of(spec, data.in_features, data.out_features)
    process = json.dumps([trainer[key] for key in OF_THE_PROCESS])
    return (trainer["accelerator"], process), memory


def _draws(spec: RunSpec) -> bool:
    """Return whether a step draws random numbers, whose generator the whole process shares."""
    with torch.random.fork_rng(devices=[]):
        module = spec.build_module(*widths_tried(spec))
        x = torch.rand(8, sum(widths_tried(spec)))
        before = torch.get_rng_state()
        module.objective(module.outputs(module.model, x))
        return not torch.equal(before, torch.get_rng_state())


def _available(accelerator: str) -> int:
    if accelerator == "cpu":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info()[0]
