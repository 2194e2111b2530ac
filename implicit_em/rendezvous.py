"""Runs of one process that train together, each in a thread of its own.

A run keeps what it has when alone: its Trainer, loggers, checkpoints, metrics and failure. Where it
has a block of batches to train on it waits for the others; then all blocks are trained, as stacks
where the runs are alike, and every run goes on by itself.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from implicit_em.data import Block
from implicit_em.stack import LANES, Stack, takes_stacks

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
        self._active = 0  # runs that neither wait here nor are over
        self._waiting: list[_Request] = []
        self._turns = threading.Semaphore(workers)
        self._interrupted = False
        self._situation: tuple[tuple[int, int, bool], ...] = ()
        self._stacks: list[tuple[Stack, list[int]]] = []
        self._pool = ThreadPoolExecutor(
            workers, "stack", initializer=torch.set_num_threads, initargs=(threads,)
        )

    def start(self, job: Callable[[], T]) -> tuple[Future[T], threading.Thread]:
        """Run a job in a thread of its own, until it waits here or is over.

        Starting one job at a time leaves each alone with what a process has only once: random
        generators, logging, Hydra's configuration.

        Raises:
            KeyboardInterrupt: after every run has stopped where it was.

        """
        future: Future[T] = Future()

        def run() -> None:
            _current.set(self)
            with self._turns:
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

        thread = threading.Thread(target=run, daemon=True)
        self._active += 1
        try:
            thread.start()
            self._settle()
        except KeyboardInterrupt:
            self._stop()
            raise
        return future, thread

    def train(self, module: Any, block: Block) -> Tensor:
        """Wait until all runs are here, and return the losses of this one's block.

        Args:
            module: an ``EnergyModule``.
            block: its next batches.

        Returns:
            As ``Stack.train`` gives them for a stack of one.

        Raises:
            SystemExit: if the sweep is being interrupted.

        """
        if self._interrupted:
            raise SystemExit("interrupted")
        request = _Request(module, block)
        self._turns.release()
        with self._changed:
            self._waiting.append(request)
            self._active -= 1
            self._changed.notify_all()
        request.done.wait()
        self._turns.acquire()
        if request.error is not None:
            raise request.error
        assert request.losses is not None
        return request.losses

    def conduct(self) -> None:
        """Train what the runs bring, until the last one is over.

        Raises:
            KeyboardInterrupt: after every run has stopped where it was.

        """
        try:
            self._conduct()
        except KeyboardInterrupt:
            self._stop()
            raise

    def close(self) -> None:
        """End the workers and the progress."""
        self._pool.shutdown(wait=False)
        if self.progress is not None:
            self.progress.close()

    def _conduct(self) -> None:
        while True:
            self._settle()
            requests, self._waiting = self._waiting, []
            if not requests:
                return
            try:
                self._train(requests)
            finally:
                with self._changed:
                    self._active += len(requests)
                for request in requests:
                    if request.losses is None and request.error is None:
                        request.error = SystemExit("interrupted")
                    request.done.set()

    def _stop(self) -> None:
        self._interrupted = True
        self._conduct()

    def _settle(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._active == 0)

    def _train(self, requests: Sequence[_Request]) -> None:
        if self._interrupted:
            return
        by_module = {id(request.module): request for request in requests}
        situation = _situation(requests)
        if situation != self._situation:
            self._stacks = [
                (Stack([r.module for r in some]), [id(r.module) for r in some])
                for some in arrange(requests, self.workers)
            ]
            self._situation = situation
        under_way = [
            self._pool.submit(_train_stack, stack, [by_module[key] for key in keys])
            for stack, keys in self._stacks
        ]
        for future in under_way:
            future.result()


def _train_stack(stack: Stack, requests: Sequence[_Request]) -> None:
    try:
        with requests[0].module.trainer.precision_plugin.train_step_context():
            losses_STR = stack.train([request.block for request in requests])
        for request, losses_ST in zip(requests, losses_STR.split(1, -1), strict=True):
            request.losses = losses_ST
    except Exception as error:
        for request in requests:
            request.error = error


def _situation(requests: Sequence[_Request]) -> tuple[tuple[int, int, bool], ...]:
    """Return who is there, whose batches have equal sizes, and whether they make stacks."""
    kinds: dict[tuple[int, ...], int] = {}
    ordered = sorted(requests, key=lambda request: id(request.module))
    return tuple(
        (id(r.module), kinds.setdefault(r.block.sizes, len(kinds)), _rounds_alike(r))
        for r in ordered
    )


def arrange(requests: Sequence[Any], workers: int) -> list[list[Any]]:
    """Return the stacks: runs that are alike, those of one batch order beside each other.

    Args:
        requests: with a ``module`` and a ``block``.
        workers: no stack is larger than the share of each.

    """
    alike: dict[Any, list[Any]] = {}
    for request in requests:
        alike.setdefault(_likeness(request), []).append(request)
    most = -(-len(requests) // workers)
    stacks = []
    for some in alike.values():
        some.sort(key=lambda request: request.block.batches[0].tolist())
        pieces = -(-len(some) // most)
        size = -(-len(some) // pieces)
        stacks += [some[start : start + size] for start in range(0, len(some), size)]
    return sorted(stacks, key=len, reverse=True)


def _likeness(request: Any) -> Any:
    """Return what runs of one stack have in common; itself for a run that makes none."""
    module, block = request.module, request.block
    if not (_rounds_alike(request) and takes_stacks(module)):
        return id(module)
    return (
        type(module),
        repr(module.hparams["model"]),
        module.objective.signature,
        block.sizes,
        module.device,
        module.compiled,
    )


def _rounds_alike(request: Any) -> bool:
    """Return whether a replica rounds as if alone.

    Its activations have to fill their lanes, and no product may be one with a vector, which in a
    stack is computed as one with a matrix.
    """
    module, block = request.module, request.block
    components, width = module.model.weight.shape[-2:]
    return module.device.type != "cpu" or all(
        size * components % LANES == 0 and min(size, components, width) > 1 for size in block.sizes
    )
