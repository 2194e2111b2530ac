"""What the scripts share. It needs numpy and torch alone, so that it runs in every environment."""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HELD_OUT = 20_000
"""Number of samples at the end of the file that no tool trains on."""
WARM = 10
"""Number of first steps that are not timed."""


@dataclass(frozen=True)
class Task:
    """A training: its samples, the autoencoder's size, and the steps to take."""

    path: str
    units: int
    active: int
    batch_size: int
    steps: int
    rate: float
    seed: int
    device: str = "cpu"

    @classmethod
    def given(cls) -> "Task":
        """Return the task that the command line holds as JSON."""
        torch.set_num_threads(1)
        return cls(**json.loads(sys.argv[1]))

    def samples(self) -> tuple[Tensor, Tensor]:
        """Return the samples to train on, and those held out, float32, on the device."""
        samples_ND = torch.from_numpy(np.load(self.path)).to(self.device)
        return samples_ND[:-HELD_OUT], samples_ND[-HELD_OUT:]

    def batches(self, samples_ND: Tensor) -> Iterator[Tensor]:
        """Yield batches without end; each pass has an order of its own."""
        random = np.random.default_rng(self.seed)
        while True:
            order = torch.from_numpy(random.permutation(len(samples_ND)))
            for rows in order.split(self.batch_size):
                if len(rows) == self.batch_size:
                    yield samples_ND[rows]


def fvu(x_ND: Tensor, reconstruction_ND: Tensor) -> float:
    """Return the fraction of variance unexplained, about the mean of these samples."""
    residual = (x_ND - reconstruction_ND).double().square().sum()
    return float(residual / (x_ND - x_ND.mean(0)).double().square().sum())


def measure(
    task: Task, step: Callable[[Tensor], Any], reconstruct: Callable[[Tensor], Tensor]
) -> None:
    """Take the steps, and print what they cost and what the autoencoder leaves unexplained."""
    train_ND, final_ND = task.samples()
    batches = task.batches(train_ND)
    before = memory(task.device)
    for _ in range(WARM):
        step(next(batches))
    synchronize = torch.cuda.synchronize if task.device == "cuda" else lambda: None
    synchronize()
    started = time.perf_counter()
    for _ in range(task.steps - WARM):
        step(next(batches))
    synchronize()
    seconds = time.perf_counter() - started
    peak = memory(task.device) - before
    with torch.no_grad():
        left = fvu(final_ND, torch.cat([reconstruct(some) for some in final_ND.split(2048)]))
    report(1e3 * seconds / (task.steps - WARM), peak, left)


def memory(device: str) -> int:
    """Return the most bytes that this process has used so far, of a GPU or its own."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def report(step_ms: float, peak: int, left: float) -> None:
    """Print the measurements as the last line."""
    print(json.dumps({"step_ms": step_ms, "peak_MiB": peak / 2**20, "fvu": left}))
