"""Part (e): what a job costs beside its epochs, and how soon a command shows something."""

import os
import pty
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import ROOT, Result, Target, spread, track
from benchmarks.sweeps import DATA, run_sweep

FIXED = 0.25
"""Most seconds that a job may cost beside its training."""
RATIO = 0.6
"""Most that a stacked sweep of one-epoch runs may take, of the basic launcher's time."""
FIRST_LINE = 2.0
"""Most seconds until a terminal shows something."""
LAUNCHERS = ("basic", "stacked")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    jobs: int = 9
    repeats: int = 5


QUICK = Size(jobs=3, repeats=1)


class Sweep(NamedTuple):
    """One command: a sweep over seeds without a probe."""

    launcher: str
    jobs: int
    epochs: int

    def __str__(self) -> str:
        return f"{self.launcher} launcher, {self.jobs} jobs of {self.epochs} epochs"

    def seconds(self) -> float:
        """Run it, from its start to its end."""
        seeds = ",".join(map(str, range(1, self.jobs + 1)))
        overrides = [f"seed={seeds}", f"trainer.max_epochs={self.epochs}", "probe=none"]
        with tempfile.TemporaryDirectory() as directory:
            return run_sweep(self.launcher, overrides, Path(directory) / "sweep")


def measure(size: Size) -> Result:
    """Time whole commands in turns, then the time to the first output on a terminal."""
    sweeps = [
        Sweep(launcher, jobs, epochs)
        for epochs in (0, 1)
        for jobs in (1, size.jobs)
        for launcher in LAUNCHERS
    ]
    seconds: defaultdict[Sweep, list[float]] = defaultdict(list)
    for sweep in track(sweeps * size.repeats, "jobs"):
        seconds[sweep].append(sweep.seconds())
    further = {
        (launcher, epochs): spread(
            [
                (many - one) / (size.jobs - 1)
                for many, one in zip(
                    seconds[Sweep(launcher, size.jobs, epochs)],
                    seconds[Sweep(launcher, 1, epochs)],
                    strict=True,
                )
            ]
        )
        for epochs in (0, 1)
        for launcher in LAUNCHERS
    }
    rows = [
        {
            "launcher": launcher,
            "epochs": epochs,
            f"seconds, {size.jobs} jobs": spread(seconds[Sweep(launcher, size.jobs, epochs)]),
            "seconds, 1 job": spread(seconds[Sweep(launcher, 1, epochs)]),
            "seconds a further job": value,
        }
        for (launcher, epochs), value in further.items()
    ]
    basic, stacked = (seconds[Sweep(launcher, size.jobs, 1)] for launcher in LAUNCHERS)
    ratios = spread([s / b for s, b in zip(stacked, basic, strict=True)])
    first = spread([first_output() for _ in range(size.repeats)])
    return Result(
        "jobs",
        "What a job costs beside its epochs; the time until a terminal shows something",
        {"repeats": size.repeats, "seconds to the first output": first["median"]},
        rows,
        [
            Target("basic: seconds of a job", further["basic", 0]["median"], FIXED),
            Target("stacked: seconds of a job", further["stacked", 0]["median"], FIXED),
            Target(f"{size.jobs} runs of one epoch: stacked / basic", ratios["median"], RATIO),
            Target("seconds to the first output", first["median"], FIRST_LINE),
        ],
    )


def first_output() -> float:
    """Return the seconds until ``train.py`` shows something on a terminal."""
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = pty.openpty()
        command = [sys.executable, str(ROOT / "train.py"), DATA, "trainer.max_epochs=0"]
        command += ["probe=none", f"hydra.run.dir={directory}/run"]
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=os.environ | {"WANDB_MODE": "offline"},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        try:
            os.read(ours, 1)
            return time.perf_counter() - started
        finally:
            process.kill()
            process.wait()
            os.close(ours)
