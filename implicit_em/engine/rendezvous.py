"""Runs of one process that train together, each in a thread of its own.

A run keeps what it has when alone: its Trainer, loggers, checkpoints, metrics and failure. Where it
has a block of batches to train on it waits for the others; then all blocks are trained, as stacks
where the runs are alike, and every run goes on by itself.
"""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from implicit_em.data import Block
from implicit_em.engine.rounding import activations_fill_lanes
from implicit_em.engine.stack import Stack, takes_stacks

T = TypeVar("T")

_current: ContextVar["Rendezvous | None"] = ContextVar("rendezvous", default=None)


def current() -> "Rendezvous | None":
    """Return where the run of this thread meets others; ``None`` for a run alone."""
    return _current.get()


@dataclass(eq=False)
class _Request:
    """A module's block, until it has been trained on."""

    module: Any
    block: Block
    thread: int = field(default_factory=threading.get_ident)
    done: threading.Event = field(default_factory=threading.Event)
    losses: Tensor | None = None
    error: BaseException | None = None


class Rendezvous:
    """Where runs meet to train.

    Args:
        workers: stacks that are trained at the same time, and runs that measure or write at the
            same time; the number of cores, or 1 for an accelerator.
        threads: torch threads of each.
        progress: the ``EpochProgress`` of all runs.

    """

    def __init__(self, workers: int, threads: int, progress: Any = None) -> None:
        self.workers = workers
        self.progress = progress
        self._changed = threading.Condition()
        self._active: set[int | None] = set()  # threads of runs that will come here next
        self._waiting: list[_Request] = []
        self._turns = threading.Semaphore(workers)
        self._situation: tuple[tuple[int, int, bool], ...] = ()
        self._stacks: list[tuple[Stack, list[int]]] = []
        self._pool = ThreadPoolExecutor(
            workers, "stack", initializer=torch.set_num_threads, initargs=(threads,)
        )

    def start(self, job: Callable[[], T]) -> tuple[Future[T], threading.Thread]:
        """Run a job in a thread of its own, until it waits here or is over.

        Starting one job at a time leaves each alone with what a process has only once: random
        generators, logging, Hydra's configuration.

        """
        future: Future[T] = Future()

        def run() -> None:
            _current.set(self)
            with self._turns:
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)
            self.leave()

        thread = threading.Thread(target=run, daemon=True)
        waiting = len(self._waiting)
        with self._changed:
            thread.start()
            self._active.add(thread.ident)
            self._changed.wait_for(lambda: future.done() or len(self._waiting) > waiting)
        return future, thread

    def leave(self) -> None:
        """Train no more: nobody waits for the run of this thread any longer."""
        with self._changed:
            self._active.discard(threading.get_ident())
            self._changed.notify_all()

    def train(self, module: Any, block: Block) -> Tensor:
        """Wait until all runs are here, and return the losses of this one's block.

        Args:
            module: an ``EnergyModule``.
            block: its next batches.

        Returns:
            As ``Stack.train`` gives them for a stack of one.

        """
        request = _Request(module, block)
        self._turns.release()
        with self._changed:
            self._waiting.append(request)
            self._active.discard(request.thread)
            self._changed.notify_all()
        request.done.wait()
        self._turns.acquire()
        if request.error is not None:
            raise request.error
        assert request.losses is not None
        return request.losses

    def conduct(self) -> None:
        """Train what the runs bring, until none trains any more."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._active)
                requests, self._waiting = self._waiting, []
            if not requests:
                return
            try:
                wait(self._train(requests))
            except Exception as error:
                for request in requests:
                    request.error = error
            with self._changed:
                self._active |= {request.thread for request in requests}
            for request in requests:
                request.done.set()

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown(wait=False)

    def _train(self, requests: Sequence[_Request]) -> list[Future[None]]:
        by_module = {id(request.module): request for request in requests}
        situation = _situation(requests)
        if situation != self._situation:
            self._stacks, self._situation = [], situation
            for some in arrange(requests, self.workers):
                self._build(some)
        return [
            self._pool.submit(_train_stack, stack, [by_module[key] for key in keys])
            for stack, keys in self._stacks
        ]

    def _build(self, requests: Sequence[_Request]) -> None:
        try:
            stack = Stack([request.module for request in requests])
        except Exception as error:
            for request in requests:
                request.error = error
        else:
            self._stacks.append((stack, [id(request.module) for request in requests]))


def _train_stack(stack: Stack, requests: Sequence[_Request]) -> None:
    try:
        with requests[0].module.trainer.precision_plugin.train_step_context():
            losses_STR = stack.train([request.block for request in requests])
        for number, losses_ST in enumerate(losses_STR.split(1, -1)):
            requests[number].losses = losses_ST
            requests[number].error = stack.failures.get(number)
    except Exception as error:
        for request in requests:
            request.error = error


def _situation(requests: Sequence[_Request]) -> tuple[tuple[int, int, bool], ...]:
    """Return who is there, whose batches have equal sizes, and whether they make stacks."""
    kinds: dict[tuple[int, ...], int] = {}
    ordered = sorted(requests, key=lambda request: id(request.module))
    return tuple(
        (
            id(r.module),
            kinds.setdefault(r.block.sizes, len(kinds)),
            activations_fill_lanes(r.module.model.weight, r.block.sizes),
        )
        for r in ordered
    )


def arrange(requests: Sequence[Any], workers: int) -> list[list[Any]]:
    """Return the stacks: runs that are alike, those of one batch order beside each other.

    Python's part of a step, some 0.2 ms for a stack of any size, takes turns: so few runs make
    fewer stacks than there are workers.

    Args:
        requests: with a ``module`` and a ``block``.
        workers: no stack is larger than the share of each.

    """
    alike: dict[Any, list[Any]] = {}
    for request in requests:
        alike.setdefault(_likeness(request), []).append(request)
    most = -(-len(requests) // min(workers, math.isqrt(2 * len(requests)) + 1))
    stacks: list[list[Any]] = []
    for some in alike.values():
        some.sort(key=lambda request: request.block.batches[0].tolist())
        stacks += split_evenly(some, most)
    return sorted(stacks, key=len, reverse=True)


def split_evenly(items: Sequence[T], most: int) -> list[list[T]]:
    """Return the items in as few lists as hold at most so many, of nearly equal lengths."""
    size = -(-len(items) // -(-len(items) // most))
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _likeness(request: Any) -> Any:
    """Return what runs of one stack have in common; itself for a run that makes none."""
    module, block = request.module, request.block
    own = getattr(module.model, "settings", ())
    known = all(
        getattr(term.function, "takes_stacks", False) for term in module.objective.terms.values()
    )
    if not (
        known
        and activations_fill_lanes(module.model.weight, block.sizes)
        and takes_stacks(module.model)
    ):
        return id(module)
    return (
        type(module),
        repr({k: v for k, v in module.hparams["model"].items() if k not in own}),
        module.objective.signature,
        block.sizes,
        module.device,
        module.compiled,
    )
