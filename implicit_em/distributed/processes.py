"""Processes that do one thing together: started, watched and ended.

The process that starts them waits, and takes no part: so it can say what became of them.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore
from torch.multiprocessing import ProcessExitedException, start_processes
from torch.multiprocessing.spawn import ProcessContext, ProcessException

from implicit_em.base import interruption
from implicit_em.base.errors import Interrupted, RunError

HERE = "127.0.0.1"
PATIENCE = timedelta(minutes=10)
"""How long a process waits for what another has to send."""
POLL = 0.5
"""Seconds between two looks at whether a signal has come."""
GRACE = 15
"""Seconds for the others to end by themselves when one has failed; then as many once more."""


@dataclass(frozen=True)
class _Meeting:
    """Where and how the processes meet."""

    count: int
    backend: str
    port: int
    directory: str
    errors: Any


def run_together(
    function: Callable[..., Any], arguments: Sequence[Any], count: int, backend: str
) -> None:
    """Call ``function(rank, *arguments)`` in each of several new processes, and wait for them.

    They find themselves in one ``torch.distributed`` group, and listen to signals, which are passed
    on to them. Only the first of them has a terminal.

    Args:
        function: of a module's top level.
        arguments: that can be pickled.
        count: of the processes.
        backend: of the group, ``gloo`` or ``nccl``.

    Raises:
        Interrupted: if a signal has asked for it.
        RunError: that of a process; or if one was killed or ended too early.
        ProcessRaisedException: for any other error of a process, with its traceback. In all cases
            none of the processes is left.

    """
    store = TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
    errors = get_context("spawn").SimpleQueue()
    meeting = _Meeting(count, backend, store.port, os.getcwd(), errors)
    context = start_processes(
        _take_part, (function, arguments, meeting), count, join=False, start_method="spawn"
    )
    try:
        _wait(context)
    except ProcessException as error:
        if number := interruption.received():
            raise Interrupted(number) from error
        if not errors.empty():
            raise errors.get() from None
        if isinstance(error, ProcessExitedException):
            raise _verdict(error, count) from None
        raise
    finally:
        for process in context.processes:
            process.kill()
            process.join()


def _wait(context: ProcessContext) -> None:
    passed_on = False
    while not context.join(POLL, GRACE):
        number = interruption.received()
        if number and not passed_on:
            # They may have had Ctrl-C from the terminal, and a second one would end them at once.
            _send(context, signal.SIGTERM if number == signal.SIGINT else number)
            passed_on = True


def _send(context: ProcessContext, number: signal.Signals) -> None:
    for process in context.processes:
        if process.is_alive():
            os.kill(process.pid, number)


def _verdict(error: ProcessExitedException, count: int) -> BaseException:
    if error.exit_code - 128 in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        return Interrupted(signal.Signals(error.exit_code - 128))
    name = error.signal_name
    how = f"was killed by {name}" if name else f"ended with exit code {error.exit_code}"
    return RunError(f"process {error.error_index + 1} of {count} {how}")


def _take_part(
    rank: int, function: Callable[..., Any], arguments: Sequence[Any], meeting: _Meeting
) -> None:
    os.chdir(meeting.directory)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    if rank > 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
    interruption.log.setLevel(logging.ERROR)  # the process that started this one says it
    with interruption.listening():
        dist.init_process_group(
            meeting.backend,
            store=TCPStore(HERE, meeting.port, is_master=False),
            rank=rank,
            world_size=meeting.count,
            timeout=PATIENCE,
        )
        try:
            function(rank, *arguments)
        except RunError as error:
            meeting.errors.put(error)
            sys.exit(1)
        except KeyboardInterrupt:  # torch would let it end the process as if all were done
            sys.exit(128 + signal.SIGINT)
    leave()


def leave() -> None:
    """Leave the group, so that none of its processes waits for this one."""
    if dist.is_initialized():
        dist.destroy_process_group()
