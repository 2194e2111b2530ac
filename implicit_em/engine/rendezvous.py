"""Runs of one process that train together, each in its own thread.

Each run keeps its Trainer, loggers, checkpoints and metrics, and fails by itself. When it has a
block of batches to train on, it waits for the other runs. Then all blocks are trained, as stacks
where runs are alike, and each run goes on by itself.
"""

import logging
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

log = logging.getLogger(__name__)

_current: ContextVar["Rendezvous | None"] = ContextVar("rendezvous", default=None)


def current() -> "Rendezvous | None":
    """Return the rendezvous of this thread's run; ``None`` if the run trains alone."""
    return _current.get()


@dataclass(eq=False)
class _Request:
    """A module and its next block; then the losses or the error."""

    module: Any
    block: Block
    thread: int = field(default_factory=threading.get_ident)
    done: threading.Event = field(default_factory=threading.Event)
    losses: Tensor | None = None
    error: BaseException | None = None


class Rendezvous:
    """Where runs meet to train.

    Args:
        workers: number of stacks that train at the same time, and of runs that measure or write at
            the same time: the number of cores, or 1 for an accelerator.
        threads: number of torch threads of each worker.
        progress: the ``EpochProgress`` that counts the epochs of all runs.
    """

    def __init__(self, workers: int, threads: int, progress: Any = None) -> None:
        self.workers = workers
        self.progress = progress
        self._changed = threading.Condition()
        self._active: set[int | None] = set()  # threads whose runs have yet to come
        self._waiting: list[_Request] = []
        self._turns = threading.Semaphore(workers)
        self._composition: tuple[tuple[int, int, bool], ...] = ()
        self._stacks: list[tuple[Stack, list[int]]] = []
        self._pool = ThreadPoolExecutor(
            workers, "stack", initializer=torch.set_num_threads, initargs=(threads,)
        )

    def start(self, job: Callable[[], T]) -> tuple[Future[T], threading.Thread]:
        """Run a job in a new thread, and return when it waits here or is over.

        Jobs start one at a time, because some things exist only once in a process: random
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
        """Train no more: the other runs no longer wait for the run of this thread."""
        with self._changed:
            self._active.discard(threading.get_ident())
            self._changed.notify_all()

    def train(self, module: Any, block: Block) -> Tensor:
        """Wait until all runs are here; return this run's losses, as ``Stack.train`` does."""
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
        """Train the blocks that the runs bring, until no run trains any more."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._active)
                requests, self._waiting = self._waiting, []
            if not requests:
                return
            try:
                wait(self._train(requests))
            except Exception as error:
                _fail(requests, error)
            with self._changed:
                self._active |= {request.thread for request in requests}
            for request in requests:
                request.done.set()

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown(wait=False)

    def _train(self, requests: Sequence[_Request]) -> list[Future[None]]:
        by_module = {id(request.module): request for request in requests}
        composition = _composition(requests)
        if composition != self._composition:
            is_first = not self._composition
            self._stacks, self._composition = [], composition
            for alike in arrange(requests, self.workers):
                modules = [request.module for request in alike]
                try:
                    self._stacks.append((Stack(modules), list(map(id, modules))))
                except Exception as error:
                    _fail(alike, error)
            if is_first:
                log.info("runs in each stack: %s", ", ".join(str(len(k)) for _, k in self._stacks))
        return [
            self._pool.submit(_train_stack, stack, [by_module[key] for key in keys])
            for stack, keys in self._stacks
        ]


def _train_stack(stack: Stack, requests: Sequence[_Request]) -> None:
    try:
        with requests[0].module.trainer.precision_plugin.train_step_context():
            losses_STR = stack.train([request.block for request in requests])
        for number, losses_ST in enumerate(losses_STR.split(1, -1)):
            requests[number].losses = losses_ST
            requests[number].error = stack.failures.get(number)
    except Exception as error:
        _fail(requests, error)


def _fail(requests: Sequence[_Request], error: Exception) -> None:
    for request in requests:
        request.error = error


def _composition(requests: Sequence[_Request]) -> tuple[tuple[int, int, bool], ...]:
    """Return what the stacks depend on: the modules, and the batch sizes of their blocks."""
    kinds: dict[tuple[int, ...], int] = {}
    return tuple(
        (id(request.module), kinds.setdefault(request.block.sizes, len(kinds)), _fills(request))
        for request in sorted(requests, key=lambda request: id(request.module))
    )


def arrange(requests: Sequence[Any], workers: int) -> list[list[Any]]:
    """Return the requests by stack: runs that are alike, with equal blocks side by side.

    Python's part of a step takes about 0.2 ms for a stack of any size, and only one thread can
    execute it at a time. So a few runs make fewer stacks than there are workers.
    """
    alike: dict[Any, list[Any]] = {}
    for request in requests:
        alike.setdefault(_stack_key(request), []).append(request)
    most = -(-len(requests) // min(workers, math.isqrt(2 * len(requests)) + 1))
    stacks: list[list[Any]] = []
    for members in alike.values():
        members.sort(key=lambda request: request.block.batches[0].tolist())
        stacks += split_evenly(members, most)
    return sorted(stacks, key=len, reverse=True)


def split_evenly(items: Sequence[T], most: int) -> list[list[T]]:
    """Split items into as few lists of at most ``most`` as possible, of nearly equal lengths."""
    size = -(-len(items) // -(-len(items) // most))
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _stack_key(request: Any) -> Any:
    """Return what the runs of one stack have in common; for a run that trains alone, itself."""
    module, block = request.module, request.block
    if module.sparse_up_to:  # its products fill a core by themselves
        return id(module)
    terms = module.objective.terms.values()
    terms_take_stacks = all(term.declares("takes_stacks") for term in terms)
    if not (terms_take_stacks and _fills(request) and takes_stacks(module.model)):
        return id(module)
    return (
        type(module),
        repr({k: v for k, v in module.hparams["model"].items() if k not in module.model.settings}),
        module.objective.signature,
        module.control is None,
        module.log_every > 0,
        block.sizes,
        module.device,
        module.compiled,
    )


def _fills(request: Any) -> bool:
    return activations_fill_lanes(request.module.model.weight, request.block.sizes)
