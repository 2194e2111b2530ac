"""Training keeps freed memory for the next tensors."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from implicit_em.base import allocation

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

STACK = """
from implicit_em.engine.stack import BareReplica, Stack
from implicit_em.losses import Objective, Term, lse
from implicit_em.models import Encoder

model = Encoder(8, 4)
Stack([BareReplica(model, Objective({"lse": Term(lse)}), torch.optim.SGD(model.parameters()))])
"""
COMMAND = """
from contextlib import suppress
from implicit_em.cli import main

with suppress(SystemExit):
    main(["compare", "no_such_part"])
"""
"""A study reads its protocol; pandas, which it imports, may start a thread."""
PROBE = """
import ctypes
from resource import RUSAGE_SELF, getrusage
from threading import Thread

import torch

PR_SET_THP_DISABLE = 41  # huge pages would make fewer faults
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
{before}

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


@pytest.mark.parametrize("before", [STACK, COMMAND], ids=["stack", "command"])
def test_the_next_tensor_gets_the_memory_of_the_last(before: str) -> None:
    typed = [sys.executable, "-c", PROBE.format(before=before)]
    process = subprocess.run(typed, stdout=subprocess.PIPE, check=True)
    assert max(map(float, process.stdout.split())) < PAGES / 2


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
