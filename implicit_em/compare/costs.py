"""What a training step costs: each family alone, on one thread, in a process of its own."""

import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate

from implicit_em.config.spec import RunSpec
from implicit_em.data import Block
from implicit_em.engine.modules import ADAM, EncoderModule, EnergyModule
from implicit_em.engine.stack import BareReplica, Stack
from implicit_em.studies.runs import Run
from implicit_em.training.directory import RunDirectory
from implicit_em.training.loading import load_weights

SECONDS = 2.0
"""Of steps that are measured."""
BATCHES = 16
"""Steps between two looks at the clock."""
WARM = 10**9
"""Steps done before: warm-up of a penalty is over."""


def costs(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row a run: ``family``, ``step_ms`` and ``peak_MiB``.

    The first is the median time of further training steps, without Trainer and loggers; the second
    the peak of the process's memory above that before there was a model, in MiB.

    Args:
        runs: that are complete, one of each family: what a step costs depends on which units are
            dead.

    """
    rows = []
    for run in runs:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            measured = process.submit(_cost, run.directory, RunSpec.of(run.cfg)).result()
        rows.append({"family": run.places[0][0], **measured})
    return pd.DataFrame(rows)


def peak_memory() -> int:
    """Return the most bytes that this process has had in memory so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure begins, on Linux, with the parent's size
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource  # which Windows does not have

    kilo = 1 if sys.platform == "darwin" else 1024
    return kilo * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _cost(directory: Path, spec: RunSpec) -> dict[str, float]:
    torch.set_num_threads(1)
    data = spec.build_data()
    samples_ND, features = data.split("train")[0], data.in_features
    tiny = EncoderModule({"in_features": features, "hidden": 8})
    _steps(tiny, ADAM, samples_ND, 8, 0)  # what libraries set up once is no cost of a family
    before = _forget_peak()
    module = spec.build_module(features)
    load_weights(module.model, RunDirectory(directory))
    settings = spec.settings
    batch_size = settings["data"]["batch_size"]
    times = _steps(module, settings["optimizer"], samples_ND, batch_size, SECONDS)
    return {
        "step_ms": 1e3 * float(np.median(times)),
        "peak_MiB": (peak_memory() - before) / 2**20,
    }


def _forget_peak() -> int:
    """Begin a new peak where the system can: that of reading the data is no family's cost."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def _steps(
    module: EnergyModule, optimizer: Any, samples_ND: torch.Tensor, batch_size: int, seconds: float
) -> list[float]:
    """Return the seconds that a step took, on average over each block but the first."""
    moving = instantiate(optimizer, _partial_=True)(module.model.parameters())
    replica = BareReplica(module.model, module.objective, moving, module.outputs, steps_done=WARM)
    stack = Stack([replica])
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - started < seconds:
        chosen = torch.randint(len(samples_ND), (BATCHES, batch_size))
        start = time.perf_counter()
        stack.train([Block(samples_ND, list(chosen))])
        times.append((time.perf_counter() - start) / BATCHES)
    return times[1:]
