"""Start processes that do one thing together, watch them and end them.

The process that starts the others only waits, and so it can say what became of them. Lightning's
launchers cannot do this. ``_MultiProcessingLauncher`` blocks until all processes have ended: no
signal reaches them, and their errors lose their types. ``_SubprocessScriptLauncher`` runs the
command again, which ``train(cfg)`` and a sweep's job do not have, and kills the whole sweep when
one process dies.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
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
"""How long a process waits for data from another."""


def run_together(
    function: Callable[..., Any], arguments: Sequence[Any], count: int, backend: str
) -> None:
    """Call ``function(rank, *arguments)`` in each of several new processes, and wait for them.

    The processes form one ``torch.distributed`` group. Signals are passed on to them. Only the
    first process writes to the terminal. None of them outlives the call.

    Raises:
        Interrupted: after a signal.
        RunError: if a process raised it, was killed, or ended too early.
        ProcessRaisedException: for any other error, with its traceback.
    """
    store = TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
    errors = get_context("spawn").SimpleQueue()
    context = start_processes(
        _take_part,
        (function, arguments, count, backend, store.port, errors),
        count,
        join=False,
        start_method="spawn",
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
    """Wait for all processes, and pass on the first signal."""
    passed_on = False
    # After a failure, the other processes get SIGTERM in 15 s, and SIGKILL in another 15 s.
    while not context.join(timeout=0.5, grace_period=15):
        number = interruption.received()
        if number and not passed_on:
            passed_on = True
            # The terminal may have sent them Ctrl-C; a second one would end them at once.
            number = signal.SIGTERM if number == signal.SIGINT else number
            for process in context.processes:
                if process.is_alive():
                    os.kill(process.pid, number)


def _verdict(error: ProcessExitedException, count: int) -> BaseException:
    """Return the error of a process that ended without raising one."""
    if error.exit_code - 128 in interruption.SIGNALS:
        return Interrupted(signal.Signals(error.exit_code - 128))
    name = error.signal_name
    how = f"was killed by {name}" if name else f"ended with exit code {error.exit_code}"
    return RunError(f"process {error.error_index + 1} of {count} {how}")


def _take_part(
    rank: int,
    function: Callable[..., Any],
    arguments: Sequence[Any],
    count: int,
    backend: str,
    port: int,
    errors: Any,
) -> None:
    """Join the group, call the function, and send a ``RunError`` to the process that waits."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    if rank > 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
    interruption.log.setLevel(logging.ERROR)  # the process that waits logs the signal
    with interruption.listening():
        store = TCPStore(HERE, port, is_master=False)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
        try:
            function(rank, *arguments)
        except RunError as error:
            errors.put(error)
            sys.exit(1)
        except KeyboardInterrupt:  # torch would let the process end as if it had succeeded
            sys.exit(128 + signal.SIGINT)
    leave()


def leave() -> None:
    """Leave the group, so that no other process waits for this one."""
    if dist.is_initialized():
        dist.destroy_process_group()
