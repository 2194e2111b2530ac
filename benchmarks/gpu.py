"""What a GPU has to show: waits of the host, and the other parts on it alone.

Without a GPU, only a trial on the CPU is possible.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks import epoch, harvest, sparse, stacked, width
from benchmarks.common import CPU, NOT_MEASURED, Device, Result, Target, devices, track
from benchmarks.peers import race
from benchmarks.sparse import Point
from benchmarks.step import random_block

WIDE = (4096, 16384, 65536, 131072)
MODELS = (*sparse.FAMILIES, "sae", "hybrid", "spike_slab", "frozen_topk")
UNITS, STEPS = 4096, 5
"""Units of a model whose waits are counted, and number of steps in which they are."""
RUN = ("trainer.max_epochs=2", "probe=none", epoch.WITH_CLOCK)
PARTS: Sequence[Any] = (epoch, stacked, width, sparse, race, harvest)
FULL = (
    epoch.Size(),
    stacked.Size(),
    width.Size(WIDE, (1024,), WIDE[0]),
    sparse.Size(tuple(Point(model, units) for model in ("topk", "encoder") for units in WIDE)),
    race.Size(WIDE[:3]),
    harvest.Size(200_000),
)
QUICK = tuple(part.QUICK for part in PARTS)


def measure(sizes: Sequence[Any]) -> Iterator[Result]:
    """Measure each part on the GPU; a trial without one measures on the CPU."""
    on = [device for device in devices() if device.type == "cuda"] or [CPU]
    yield waits(on[0])
    for part, size in zip(PARTS, sizes, strict=True):
        found = part.measure(size, on)
        yield replace(found, part=f"gpu_{found.part}", title=f"{found.title} ({on[0]})")


def waits(device: Device) -> Result:
    """Count what makes the host wait: an error in a dense step, a warning elsewhere."""
    samples_ND = sparse.random_samples(device.type)
    rows, targets = [], []
    for model in track(MODELS, "waits"):
        point = Point(model, UNITS, batch_size=256)
        row: dict[str, Any] = {"device": str(device), "what": str(point)}
        for kind, share, mode in (("dense", 0.0, "error"), ("sparse", 1.0, "warn")):
            stack = sparse.stack_of(point, samples_ND, share)
            blocks = [random_block(samples_ND, point.batch_size, STEPS)]
            stack.train(blocks)  # the first steps set up what stays
            found = _waits(partial(stack.train, blocks), device, mode)
            row[f"{kind}_waits_a_step"] = found / STEPS if isinstance(found, int) else found
        rows.append(row)
        dense = row["dense_waits_a_step"]
        measured = None if dense == NOT_MEASURED else float(dense != 0)
        targets.append(Target(f"dense steps that wait, {model}", measured, 0))
    found = _waits(partial(epoch.project_epochs, [*device.overrides, *RUN]), device, "warn")
    rows.append({"device": str(device), "what": "a run of two epochs", "waits": found})
    return Result(
        "gpu_waits",
        "Waits of the host for the device; a dense step that waits shows CUDA's error",
        {"in_features": sparse.WIDTH, "steps": STEPS},
        rows,
        targets,
    )


def _waits(function: Callable[[], Any], device: Device, mode: str) -> int | str:
    """Return the number of waits of a call, or the error of the first."""
    if device.type != "cuda":
        function()
        return NOT_MEASURED
    try:
        with _watched(mode) as found:
            function()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return str(error).splitlines()[0]
    return sum("synchroniz" in str(warning.message) for warning in found)


@contextmanager
def _watched(mode: str) -> Iterator[list[warnings.WarningMessage]]:
    """Let CUDA warn of each wait, or raise an error; gives the warnings."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode(mode)
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
