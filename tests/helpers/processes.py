"""Training in processes of its own."""

import os
import subprocess
import sys
import time

from helpers.paths import ROOT

CODE = """
import sys
from implicit_em import cli
from benchmarks.common import peak_memory
code = cli.main(["train", *sys.argv[1:]])
print("peak", peak_memory())
sys.exit(code)
"""


def trained_in_a_process(directory, *typed):
    """Train in a directory; gives what was printed, and the peak of the memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *typed],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed, _, peak = done.stdout.rpartition("peak ")
    return printed, int(peak)


def wait_for(condition, process, pause=0.0002):
    """Wait until a condition holds, before a process is over; look at it each so many seconds."""
    while not condition():
        assert process.poll() is None, "over too soon"
        time.sleep(pause)
