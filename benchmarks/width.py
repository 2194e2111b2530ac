"""Part (d): step time and peak memory as the layer grows wider."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.common import (
    MIB,
    Device,
    Result,
    Target,
    devices,
    peak_memory,
    rows_not_measured,
    spread,
    track,
)
from benchmarks.step import build_stack, random_block

EXPONENT = 1.15
"""Most that the step time may grow by: as K to this power."""
LINEAR = 1.05
"""What still counts as memory linear in K, as the exponent of a fit."""
IMAGES, PIXELS = 60_000, 784


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        widths: numbers of components.
        batch_sizes: the exponents' targets are those of the first.
        fitted_from: least width that the exponents are fitted to.
        seconds: of training at each point, in five steps or more.
    """

    widths: tuple[int, ...] = (64, 256, 1024, 4096, 16384)
    batch_sizes: tuple[int, ...] = (128, 1024)
    fitted_from: int = 1024
    seconds: float = 2.0


QUICK = Size(widths=(1024, 4096), batch_sizes=(128,), seconds=0.3)


@dataclass(frozen=True)
class Point:
    """What is measured in one process."""

    device: Device
    batch_size: int
    hidden: int

    def __str__(self) -> str:
        return f"{self.device}, batch {self.batch_size}, K = {self.hidden}"


def measure(size: Size, on: Sequence[Device] = ()) -> Result:
    """Measure each point in a process of its own; returns times, memory and fitted exponents."""
    points = [
        Point(device, batch_size, hidden)
        for device in on or devices()
        for batch_size in size.batch_sizes
        for hidden in size.widths
    ]
    spawn = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    for point in track(points, "width"):
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            times, memory = process.submit(_cost, point, size.seconds).result()
        rows.append(
            {
                "device": str(point.device),
                "batch_size": point.batch_size,
                "K": point.hidden,
                "step_ms": spread([1e3 * seconds for seconds in times]),
                "peak_MiB": round(memory / MIB, 2),
                "peak_bytes_a_weight": round(memory / point.hidden / PIXELS, 2),
            }
        )
    targets = []
    for device in on or devices():
        for batch_size in size.batch_sizes:
            fitted = [
                row
                for row in rows
                if (row["device"], row["batch_size"]) == (str(device), batch_size)
                and row["K"] >= size.fitted_from
            ]
            widths = [row["K"] for row in fitted]
            where = f"{device}, batch {batch_size}, K = {widths[0]:,} to {widths[-1]:,}"
            time_exponent = exponent(widths, [row["step_ms"]["median"] for row in fitted])
            memory_exponent = exponent(widths, [row["peak_MiB"] for row in fitted])
            targets.append(Target(f"exponent of step time, {where}", time_exponent, EXPONENT))
            targets.append(Target(f"exponent of peak memory, {where}", memory_exponent, LINEAR))
    setting = {"in_features": PIXELS, "threads": 1, "seconds_a_point": size.seconds}
    return Result(
        "width",
        "Step time and peak memory of a run alone (no Trainer), above those of the loaded data",
        setting,
        rows + rows_not_measured("batch_size", on),
        targets,
    )


def exponent(widths: Sequence[int], costs: Sequence[float]) -> float:
    """Return the power of K that fits best, by least squares between the logarithms."""
    return round(float(np.polyfit(np.log(widths), np.log(costs), 1)[0]), 3)


def _cost(point: Point, seconds: float) -> tuple[list[float], int]:
    """Return the seconds of steps and the peak memory in bytes, above that before the model."""
    torch.set_num_threads(1)
    device = point.device
    images_ND = torch.randint(256, (IMAGES, PIXELS), dtype=torch.uint8, device=device.type)

    def train(hidden: int, batch_size: int, seconds: float) -> list[float]:
        stack = build_stack(1, PIXELS, hidden, device)
        times: list[float] = []
        started = time.perf_counter()
        batches = 1
        while len(times) < 6 or time.perf_counter() - started < seconds:
            block = random_block(images_ND, batch_size, batches)
            start = time.perf_counter()
            with device.arithmetic():
                stack.train([block])
            device.synchronize()
            times.append((time.perf_counter() - start) / batches)
            batches = max(1, min(64, int(0.1 / times[-1])))
        return times[1:]

    train(8, 8, 0)  # what libraries set up once is no cost of the width
    before = peak_bytes(device.type)
    times = train(point.hidden, point.batch_size, seconds)
    return times, peak_bytes(device.type) - before


def peak_bytes(device: str) -> int:
    """Return the most memory that this process has used so far: of the GPU, or its own."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_memory()
