"""Training keeps freed memory for the next tensors."""

import os
import platform
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
from helpers import replicas

from implicit_em.base import allocation
from implicit_em.cli import main
from implicit_em.engine.stack import Stack

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

PROBE = """
import ctypes
from resource import RUSAGE_SELF, getrusage
from threading import Thread

import torch
from implicit_em.base.allocation import keep_freed_memory

PR_SET_THP_DISABLE = 41  # huge pages would make fewer faults
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
keep_freed_memory()

def step():
    [torch.ones(2**22) for _ in range(5)]

def count():
    for number in range(20):
        if number == 10:
            before = getrusage(RUSAGE_SELF).ru_minflt
        step()
    print((getrusage(RUSAGE_SELF).ru_minflt - before) / 10)

for _ in range(2):
    thread = Thread(target=count)
    thread.start()
    thread.join()
"""
"""Prints the mean page faults of a step in each of two threads. A step has 5 tensors of 16 MiB."""
PAGES = 2**24 // os.sysconf("SC_PAGESIZE")
"""Pages of a tensor."""


def test_the_next_tensor_gets_the_memory_of_the_last() -> None:
    process = subprocess.run([sys.executable, "-c", PROBE], stdout=subprocess.PIPE, check=True)
    assert max(map(float, process.stdout.split())) < PAGES / 2


def test_a_stack_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    monkeypatch.setattr("implicit_em.engine.stack.keep_freed_memory", lambda: kept.append(True))
    Stack([replicas.run()])
    assert kept


def test_a_command_keeps_freed_memory_before_it_loads_a_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A library, such as pandas, may start a thread, which would have a pool of its own."""
    order: list[str] = []
    monkeypatch.setattr("implicit_em.cli.keep_freed_memory", lambda: order.append("kept"))
    monkeypatch.setattr(EntryPoint, "load", lambda _: order.append("loaded") or len)
    monkeypatch.setattr(sys, "path", [*sys.path])
    main(["compare", "no_such_part"])
    assert order == ["kept", "loaded"]


def test_a_setting_of_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in allocation.SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    set_here: list[int] = []
    library = SimpleNamespace(mallopt=lambda parameter, _: set_here.append(parameter))
    monkeypatch.setattr(allocation, "ctypes", SimpleNamespace(CDLL=lambda _: library))
    allocation.keep_freed_memory.__wrapped__()
    others = {name: number for name, (number, _) in allocation.SETTINGS.items()}
    del others["MALLOC_ARENA_MAX"]
    assert set_here == list(others.values())
