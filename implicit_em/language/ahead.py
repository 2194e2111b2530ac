"""Training shards that are made while a run trains: some ahead of it, and dropped behind it."""

import atexit
import os
import signal
import sys
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from implicit_em.base import interruption
from implicit_em.base.errors import ConfigError, RunError, one_line, raising
from implicit_em.base.locking import LOCK, locked
from implicit_em.data.on_disk import SamplesOnDisk, WindowLoader
from implicit_em.data.resident import in_one_window
from implicit_em.language.store import AHEAD, ActivationStore, Shard, missing_of, read_manifest
from implicit_em.language.writing import refuse_small_disk
from implicit_em.models.normalizing import Normalizer

CONTEXT: Any = get_context("spawn")
"""How the process of a producer starts."""
POLL = 0.1
"""Seconds between two looks at signals while a shard is awaited."""


class Producer(Protocol):
    """What makes shards of a store; it is sent to a process of its own."""

    def open(self, store: Path) -> Callable[[int, str], Shard]:
        """Return a function that writes a shard into a folder of a store, and notes its digest.

        It takes the shard's place in the manifest and the folder's name, and returns the shard with
        its digest. If another digest is noted already, it refuses the shard.
        """


class Making:
    """A producer at work in a process of its own; it makes shards of a store for one run.

    Args:
        producer: what makes the shards; ``None`` is refused.
        store: directory of the store.

    Raises:
        ConfigError: if there is no producer, the store cannot be written, or another run uses it.
    """

    def __init__(self, producer: Producer | None, store: Path) -> None:
        if producer is None:
            raise ConfigError(
                f"producer=null: shards of {store} are missing, and nothing makes any"
            )
        self._folder = store / AHEAD
        self._lock = ExitStack()
        taken = (
            f"path={store}: its shards are made for another run that trains; only one can. "
            "implicit-em harvest makes a whole store, for any number of runs"
        )
        self._lock.enter_context(locked(self._folder, taken))
        self._pipe, theirs = CONTEXT.Pipe()
        arguments = (producer, store, theirs)
        self._process = CONTEXT.Process(target=_make, args=arguments, daemon=True)
        self._process.start()
        atexit.register(self._process.kill)  # else a program would wait for it at its end
        theirs.close()

    def ask(self, place: int, folder: str) -> None:
        """Ask for the shard at a place of the manifest, to be written into a folder."""
        with suppress(BrokenPipeError):  # ``answer`` says what became of the process
            self._pipe.send((place, folder))

    @property
    def has_answered(self) -> bool:
        """Whether ``answer`` need not wait."""
        return self._pipe.poll()

    def answer(self) -> Shard:
        """Wait for the next of the shards, which come as they were asked for.

        Raises:
            Interrupted: if a signal asked for it.
            RunError: if the producer raised it, or its process has ended.
        """
        while not self._pipe.poll(POLL):
            interruption.stop_if_requested()
        try:
            found = self._pipe.recv()
        except (EOFError, ConnectionError):
            interruption.stop_if_requested()
            self._process.join()
            code = self._process.exitcode
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended: {code}"
            message = f"the process that makes shards {how}; the same command goes on"
            raise RunError(message) from None
        if isinstance(found, Exception):
            raise found
        return found

    def clear(self, wanted: Collection[str] = ()) -> None:
        """Drop all files that were made, also half-written ones, except those of these names."""
        for path in self._folder.iterdir():
            if path.name not in (LOCK, *wanted):
                path.unlink()

    def close(self, drop: bool = False) -> None:
        """End the process, drop what it has made if so asked, and let other runs use the store."""
        atexit.unregister(self._process.kill)
        self._process.kill()
        self._process.join()
        if drop:
            self.clear()
        self._lock.close()


def _make(producer: Producer, store: Path, pipe: Connection) -> None:
    """Make the shards that are asked for, until the process that asks ends."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
    tqdm.set_lock(threading.RLock())  # its own lock is a semaphore, which a kill would leave behind
    for number in interruption.SIGNALS:  # the training answers them, and ends this process
        signal.signal(number, signal.SIG_IGN)
    asked: SimpleQueue[tuple[int, str]] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, asked), daemon=True).start()
    try:
        write = producer.open(store)
        while True:
            pipe.send(write(*asked.get()))
    except Exception as error:
        kind = f"the process that makes shards: {type(error).__name__}: {one_line(error)}"
        pipe.send(error if isinstance(error, RunError) else RunError(kind))


def _listen(pipe: Connection, asked: SimpleQueue[tuple[int, str]]) -> None:
    try:
        while True:
            asked.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(1)


@dataclass(eq=False)
class Stream:
    """Training tokens ``(N, D)`` in the order of an epoch.

    They come in windows of whole shards, in numerical order, and each window is shuffled. One
    window and the next are in memory. Shards that the store lacks are made: those of the window
    that is trained on, and ``ahead`` more. They lie in the folder ``AHEAD`` of the store until
    their window was trained on. Nothing outside of that folder is ever dropped.

    Args:
        store: the store.
        shape: shape ``(N, D)`` of the tokens of an epoch.
        normalizer: what normalises them; ``None`` for nothing.
        windows: places in the manifest of the training shards of each window.
        samples_of: function that returns the tokens of shards that are trained on, in their order.
        seed: seed of the order in a window.
        ahead: number of shards that are made ahead of a window.
        producer: what makes them; ``None`` if none is missing.
        ends: for each window that was trained on before, the number of tokens up to its end.
        device: device of the training.
        on_progress: function that is called when a shard was made.
    """

    store: ActivationStore
    shape: torch.Size
    normalizer: Normalizer | None
    windows: Sequence[Sequence[int]]
    samples_of: Callable[[Sequence[Shard]], SamplesOnDisk]
    seed: int
    ahead: int
    producer: Producer | None
    ends: list[int]
    device: torch.device
    on_progress: Callable[[], None]

    def __post_init__(self) -> None:
        self._places = [*chain.from_iterable(self.windows)]
        self._until = [0, *accumulate(map(len, self.windows))]
        self._next: int | None = None  # index in ``_places`` of the first that was not asked for
        self._dropped = 0
        self._there: dict[int, Shard] = {}
        self._asked: deque[int] = deque()
        self._making: Making | None = None
        self._reader = ThreadPoolExecutor(1)
        self._held: dict[int, Future[Tensor]] = {}

    def values(self, first: int) -> Iterator[Tensor]:
        """Iterate over the shuffled tokens of each window, beginning with a token of the epoch.

        Raises:
            ConfigError: if another run uses the store, or the disk is too small.
            DamagedError: if a file is damaged.
            Interrupted: if a signal asked for it while a shard is awaited.
            RunError: if a shard cannot be made, or the store has too few tokens.
        """
        begun = bisect_right(self.ends, first)
        skipped = first - [0, *self.ends][begun]
        with raising(ConfigError, "data", ConfigError, is_group=True):
            self._open(begun)
        for number in range(begun, len(self.windows)):
            yield self._window(number)[skipped:]
            skipped = 0
        most = self.ends[-1]
        raise RunError(f"data.tokens={len(self)}: {most} tokens of {self.store.path} are left")

    @property
    def progress(self) -> str:
        """How many of the shards are there; empty if none has to be made."""
        there = min(self._next or 0, len(self._places)) - len(self._asked)
        return f"harvested {there}/{len(self._places)}" if self._making else ""

    @property
    def most_bytes(self) -> int:
        """Largest size of the shards of a window, and of those that are made ahead of it."""
        manifest = self.store.manifest
        tokens = [manifest.shards[place].tokens for place in self._places]
        spans = pairwise(self._until)
        most = max(sum(tokens[start : end + self.ahead]) for start, end in spans)
        return most * manifest.bytes_a_token

    def close(self, drop: bool = False) -> None:
        """Make no more shards, and drop those that were made if so asked."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        making, self._making = self._making, None
        if making is not None:
            making.close(drop)

    def _window(self, number: int) -> Tensor:
        """Return the tokens of a window, when its shards are there; forget those before it."""
        self._forget_before(number)
        self._ask(self._until[number + 1] + self.ahead)
        self._take(self.windows[number])
        for near in range(number, min(number + 2, len(self.windows))):
            if near not in self._held and self._there.keys() >= {*self.windows[near]}:
                self._held[near] = self._reader.submit(self._read, near)
        values = self._held[number].result()
        if number == len(self.ends):
            self.ends.append(sum(self.ends[-1:]) + len(values))
        return values

    def __len__(self) -> int:
        return self.shape[0]

    def _open(self, number: int) -> None:
        """Find the shards that are there from a window on; if any is missing, begin to make it."""
        self._next = self._dropped = first = self._until[number]
        path, manifest = self.store.path, read_manifest(self.store.path)
        assert manifest is not None, "the store has been read"
        missing = {*missing_of(path, manifest)}
        places = self._places[first:]
        self._there = {place: manifest.shards[place] for place in places if place not in missing}
        if len(self._there) == len(places):
            return
        self._making = Making(self.producer, path)
        near = places[: len(self.windows[number]) + self.ahead]
        self._making.clear([manifest.shards[place].file for place in near])
        made = {*near} - {*missing_of(path / AHEAD, manifest)}
        self._there |= {place: manifest.shards[place] for place in made}
        needed = sum(manifest.shards[place].tokens for place in made) * manifest.bytes_a_token
        refuse_small_disk("path", path, self.most_bytes - needed)

    def _ask(self, end: int) -> None:
        """Ask for the shards that are missing, of those up to the end of a part of ``_places``."""
        assert self._next is not None, "_open() comes first"
        for place in self._places[self._next : end]:
            if place not in self._there and self._making is not None:
                self._asked.append(place)
                self._making.ask(place, AHEAD)
        self._next = max(self._next, end)

    def _take(self, wanted: Sequence[int]) -> None:
        """Take the shards that were made meanwhile, and wait for those that are wanted."""
        while self._making is not None and self._asked:
            if self._there.keys() >= {*wanted} and not self._making.has_answered:
                break
            self._there[self._asked.popleft()] = self._making.answer()
            self.on_progress()

    def _forget_before(self, number: int) -> None:
        """Forget windows before a window, and drop the shards that were made for them."""
        for before in [near for near in self._held if near < number]:
            del self._held[before]
        if self._making is not None:
            for place in self._places[self._dropped : self._until[number]]:
                file = self.store.manifest.shards[place].file
                (self.store.path / AHEAD / file).unlink(missing_ok=True)
            self._dropped = self._until[number]

    def _read(self, number: int) -> Tensor:
        """Return the tokens of a window, shuffled, as they are in the files."""
        samples = self.samples_of([self._there[place] for place in self.windows[number]])
        generator = np.random.default_rng((self.seed, number))
        return samples.read(in_one_window(torch.arange(len(samples)), generator)[0])


class StreamLoader(WindowLoader):
    """Sized, resumable iterable of the batches of a ``Stream``, for one epoch."""

    def values(self, first: int) -> Iterator[Tensor]:
        """Iterate over the values of each window, beginning with sample ``first`` of the epoch."""
        if self.epoch:
            raise ConfigError("max_epochs: with data.ahead, allowed is one epoch")
        return self.inputs.values(first)
