"""Part (b): sweeps one run after another against the same trained together."""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clock import WITH_CLOCK, read_clocks, seconds_a_run_and_epoch
from benchmarks.common import (
    MIB,
    Device,
    Result,
    Target,
    cores,
    devices,
    rows_not_measured,
    spread,
    track,
)
from benchmarks.sgemm import AIM, matrix_rate
from benchmarks.step import products_flop
from benchmarks.sweeps import compose_run, run_sweep
from implicit_em.training.spec import RunSpec

RATIO = 0.4
"""Most that a run of the largest stack may take, of the time that it takes alone."""
SEEDS, STUDY, RATES = "seeds", "seeds x rates", "rates"
"""Sweeps of runs with a batch each; a third as many batches, as in the paper; one batch for all."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        counts: of runs in a stacked sweep of seeds; the other sweeps have the most of them.
        sequential: runs in a sequential sweep: a run takes no longer for those before it.
        threads: of torch, tried for the sequential sweep on a CPU.
        epochs: measured, between the first and the last; the curves come every other epoch.
        repeats: of everything, in turns.
        overrides: of every run.
    """

    counts: tuple[int, ...] = (1, 3, 8, 24)
    sequential: int = 3
    threads: tuple[int, ...] = (1, 2)
    epochs: int = 4
    repeats: int = 3
    overrides: tuple[str, ...] = ()


QUICK = Size(counts=(6,), sequential=1, threads=(1,), repeats=1)


@dataclass(frozen=True)
class Sweep:
    """A sweep; ``threads`` is ``None`` where that is left to the launcher."""

    device: Device
    axis: str
    launcher: str
    runs: int
    threads: int | None = None

    @property
    def overrides(self) -> list[str]:
        """What is typed to have it."""
        seeds = {SEEDS: self.runs, STUDY: 3, RATES: 1}[self.axis]
        values = np.geomspace(1e-4, 1e-2, self.runs // seeds)
        rates = ",".join(f"{rate:.4g}" for rate in values)
        axes = [f"seed={','.join(map(str, range(1, seeds + 1)))}"]
        axes += [] if self.axis == SEEDS else [f"lr.value={rates}"]
        threads = [f"trainer.threads={self.threads}"] if self.threads else []
        return [*self.device.overrides, *threads, *axes]

    def __str__(self) -> str:
        threads = f", threads: {self.threads}" if self.threads else ""
        return f"{self.device}, {self.launcher} launcher, {self.axis}: {self.runs}{threads}"


@dataclass(frozen=True)
class Timing:
    """What a sweep took."""

    seconds: float
    share: float
    device_memory: int | None


def measure(size: Size, on: Sequence[Device] = ()) -> Result:
    """Run all sweeps in turns; returns seconds a run and epoch, and their ratios."""
    spec = RunSpec.of(compose_run(size.overrides))
    cfg = spec.settings
    data = spec.build_data()
    images, hidden = len(data.train_indices()), cfg["model"]["hidden"]
    flop = products_flop(images, hidden, data.in_features)
    sweeps = [sweep for device in on or devices() for sweep in _sweeps(device, size)]
    timings: dict[Sweep, list[Timing]] = {sweep: [] for sweep in sweeps}
    for sweep in track(sweeps * size.repeats, "sweeps"):
        timings[sweep].append(_time(sweep, size, flop))
    rows, targets = [], []
    for sweep in sweeps:
        if sweep.launcher == "stacked":
            row = _row(sweep, timings)
            rows.append(row)
            if sweep.runs == max(size.counts):
                name = f"{sweep.device}, {sweep.axis}: {sweep.runs}"
                share, ratio = row["share_of_sgemm_%"]["median"], row["ratio"]["median"]
                targets.append(Target(f"stacked / sequential, {name}", ratio, RATIO))
                targets.append(Target(f"share of sgemm, {name}, %", share, AIM, at_least=True))
    setting = {
        "images": images,
        "batch_size": cfg["data"]["batch_size"],
        "hidden": hidden,
        "epochs": size.epochs,
        "sequential_runs": size.sequential,
        "sequential_threads_tried": " and ".join(map(str, size.threads)),
        "repeats": size.repeats,
    }
    return Result(
        "stacked",
        "Sweeps by train.py, loggers on: seconds a run and epoch, one after another and stacked",
        setting,
        rows + rows_not_measured("sweep", on),
        targets,
    )


def _sweeps(device: Device, size: Size) -> list[Sweep]:
    threads = [n for n in size.threads if n <= cores()] if device.type == "cpu" else [None]
    return [
        *(Sweep(device, SEEDS, "basic", size.sequential, n) for n in threads),
        *(Sweep(device, SEEDS, "stacked", count) for count in size.counts),
        *(Sweep(device, axis, "stacked", max(size.counts)) for axis in (STUDY, RATES)),
    ]


def _time(sweep: Sweep, size: Size, flop: int) -> Timing:
    epochs = f"trainer.max_epochs={size.epochs + 2}"
    overrides = [*size.overrides, *sweep.overrides, epochs, "probe=none", WITH_CLOCK]
    with tempfile.TemporaryDirectory() as directory:
        run_sweep(sweep.launcher, overrides, Path(directory) / "sweep")
        clocks = read_clocks(Path(directory))
    seconds = seconds_a_run_and_epoch(clocks)
    at_once = sweep.runs if sweep.launcher == "stacked" else 1
    products = matrix_rate(min(at_once, sweep.device.workers), sweep.device)
    return Timing(seconds, flop / seconds / products, clocks[0]["device_memory"])


def _row(stacked: Sweep, timings: dict[Sweep, list[Timing]]) -> dict[str, Any]:
    """Return a stacked sweep beside the sequential one, at the latter's best number of threads."""
    sequential = min(
        (s for s in timings if s.launcher == "basic" and s.device == stacked.device),
        key=lambda sweep: statistics.median(timing.seconds for timing in timings[sweep]),
    )
    pairs = list(zip(timings[stacked], timings[sequential], strict=True))
    row = {
        "device": str(stacked.device),
        "sweep": stacked.axis,
        "runs": stacked.runs,
        "sequential_threads": sequential.threads,
        "sequential_s": spread([alone.seconds for _, alone in pairs]),
        "stacked_s": spread([together.seconds for together, _ in pairs]),
        "ratio": spread([together.seconds / alone.seconds for together, alone in pairs]),
        "share_of_sgemm_%": spread([100 * together.share for together, _ in pairs]),
    }
    memory = [together.device_memory for together, _ in pairs if together.device_memory]
    return row | ({"device_memory_MiB": max(memory) / MIB} if memory else {})
