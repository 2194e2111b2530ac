"""Part (c): the share of the machine's matrix products that training steps reach."""

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common import Device, Result, Target, devices, rows_not_measured, spread, track
from benchmarks.step import build_stack, products_flop, random_block
from benchmarks.sweeps import compose_run
from implicit_em.data import Block
from implicit_em.engine.stack import Stack
from implicit_em.training.spec import RunSpec

AIM = 50
"""Least share of the sgemm rate, in percent."""
BATCHES = 64
"""Of a block, as in training."""
OWN, SHARED = "its own", "shared"


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        runs: of the stack.
        repeats: of everything, in turns.
        seconds: of training in a repeat.
        overrides: of the default run.
    """

    runs: int = 24
    repeats: int = 7
    seconds: float = 1.0
    overrides: tuple[str, ...] = ()


QUICK = Size(runs=8, repeats=1, seconds=0.2)


@dataclass(frozen=True)
class Case:
    """A number of runs, and whether each has a batch of its own."""

    device: Device
    runs: int
    batches: str

    @property
    def threads(self) -> int:
        """That train at the same time."""
        return min(self.runs, self.device.workers)

    def __str__(self) -> str:
        return f"{self.device}, stack of {self.runs}, batch {self.batches}"


def measure(size: Size) -> Result:
    """Time training steps and products of large matrices in turns."""
    spec = RunSpec.of(compose_run(size.overrides))
    cfg = spec.settings
    data = spec.build_data()
    images_ND, hidden = data.split("train")[0], cfg["model"]["hidden"]
    batch_size = cfg["data"]["batch_size"]
    cases = [
        Case(device, runs, batches)
        for device in devices()
        for runs, batches in ((1, OWN), (size.runs, OWN), (size.runs, SHARED))
    ]
    rates: dict[Case, list[tuple[float, float]]] = {case: [] for case in cases}
    for case in track(cases * size.repeats, "share of sgemm"):
        images = images_ND.to(case.device.type)
        steps = _steps_a_second(case, images, batch_size, hidden, size.seconds)
        flop = products_flop(batch_size, hidden, data.in_features)
        rates[case].append((steps * flop, matrix_rate(case.threads, case.device)))
    rows, targets = [], []
    for case, measured in rates.items():
        share = spread([100 * training / products for training, products in measured])
        rows.append(
            {
                "device": str(case.device),
                "runs": case.runs,
                "batch": case.batches,
                "threads": case.threads,
                "step_ms": spread([1e3 * case.runs * flop / training for training, _ in measured]),
                "training_GFLOP/s": spread([training / 1e9 for training, _ in measured]),
                "sgemm_GFLOP/s": spread([products / 1e9 for _, products in measured]),
                "share_%": share,
            }
        )
        targets.append(Target(f"share of sgemm, {case}, %", share["median"], AIM, at_least=True))
    setting = {"batch_size": batch_size, "hidden": hidden, "repeats": size.repeats}
    return Result(
        "sgemm",
        "Steps alone (no Trainer, no loggers): share of the sgemm rate in their two products",
        setting,
        rows + rows_not_measured("batch"),
        targets,
    )


def matrix_rate(threads: int, device: Device, seconds: float = 0.3) -> float:
    """Return operations a second in products of large matrices.

    Args:
        threads: that each multiply by themselves on a CPU.
        device: also gives the dtype.
        seconds: to measure for.
    """
    width = 1024 if device.type == "cpu" else 8192
    started = threading.Barrier(threads)

    def multiply(_: int) -> float:
        left, right = (
            torch.rand(width, width, dtype=device.dtype, device=device.type) for _ in range(2)
        )
        product = left @ right
        device.synchronize()
        started.wait()
        start, calls = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            torch.mm(left, right, out=product)
            device.synchronize()
            calls += 1
        return calls * 2 * width**3 / (time.perf_counter() - start)

    # The number of threads is each Python thread's own, and MKL's default is all cores.
    with ThreadPoolExecutor(threads, "sgemm", torch.set_num_threads, (1,)) as pool:
        return sum(pool.map(multiply, range(threads)))


def _steps_a_second(
    case: Case, images_ND: Tensor, batch_size: int, hidden: int, seconds: float
) -> float:
    """Return the steps that all runs together make, as a sweep trains them: a stack a worker."""
    shares = [len(range(worker, case.runs, case.threads)) for worker in range(case.threads)]
    stacks = [build_stack(runs, images_ND.shape[1], hidden, case.device) for runs in shares]
    one = random_block(images_ND, batch_size, BATCHES)

    def blocks_for(runs: int) -> list[Block]:
        if case.batches == SHARED:
            return [one] * runs
        return [random_block(images_ND, batch_size, BATCHES) for _ in range(runs)]

    def train(stack: Stack, blocks: Sequence[Block]) -> None:
        with case.device.arithmetic():
            stack.train(blocks)

    blocks = [blocks_for(runs) for runs in shares]
    times: list[float] = []
    with ThreadPoolExecutor(case.threads, "stack", torch.set_num_threads, (1,)) as pool:
        started = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - started < seconds:
            start = time.perf_counter()
            list(pool.map(train, stacks, blocks))
            case.device.synchronize()
            times.append(time.perf_counter() - start)
    return case.runs * BATCHES / statistics.median(times[1:])
