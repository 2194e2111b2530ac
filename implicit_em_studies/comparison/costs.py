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

from implicit_em.base.allocation import return_freed_memory
from implicit_em.data import Block
from implicit_em.engine.modules import ADAM, EncoderModule, EnergyModule
from implicit_em.engine.sparse import largest_share
from implicit_em.engine.stack import BareReplica, Stack
from implicit_em.trained.loading import load_weights
from implicit_em.training.directory import RunDirectory
from implicit_em_studies.shared.runs import Run

SECONDS = 2.0  # how long steps are measured
BATCHES = 16  # steps between two looks at the clock
WARM = 10**9  # steps that count as done already: a penalty's warm-up is over


def costs(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row per complete run, one run of each family.

    ``step_ms`` is the median time of a further training step without Trainer and loggers; it
    depends on which units are dead. ``peak_MiB`` is the peak of the process's memory above that
    before the model was made.
    """
    rows = []
    for run in runs:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            rows.append({"family": run.sweep, **process.submit(_cost, run).result()})
    return pd.DataFrame(rows)


def peak_memory() -> int:
    """Return the most bytes that this process has used so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure begins, on Linux, with the parent's size
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource  # which Windows does not have

    kilo = 1 if sys.platform == "darwin" else 1024
    return kilo * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _cost(run: Run) -> dict[str, float]:
    torch.set_num_threads(1)
    cfg, data = run.spec.settings, run.spec.build_data()
    samples_ND, features = data.split("train")[0], data.in_features
    tiny = EncoderModule({"in_features": features, "hidden": 8})
    _steps(tiny, ADAM, samples_ND, 8, 0)  # what libraries set up once is not a family's cost
    before = _forget_peak()
    module = run.spec.build_module(features)
    load_weights(module.model, RunDirectory(run.directory))
    times = _steps(module, cfg["optimizer"], samples_ND, cfg["data"]["batch_size"], SECONDS)
    return {"step_ms": 1e3 * float(np.median(times)), "peak_MiB": (peak_memory() - before) / 2**20}


def _forget_peak() -> int:
    """Begin a new peak if the system can; reading the data is not a family's cost."""
    return_freed_memory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def _steps(
    module: EnergyModule, optimizer: Any, samples_ND: torch.Tensor, batch_size: int, seconds: float
) -> list[float]:
    """Return a step's mean time in each block but the first, in seconds."""
    moving = instantiate(optimizer, _partial_=True)(module.model.parameters())
    replica = BareReplica(module.model, module.objective, moving, steps_done=WARM)
    replica.sparse_up_to = largest_share(module.hparams["sparse"], replica)
    stack = Stack([replica])
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - started < seconds:
        chosen = torch.randint(len(samples_ND), (BATCHES, batch_size))
        start = time.perf_counter()
        stack.train([Block(samples_ND, list(chosen))])
        times.append((time.perf_counter() - start) / BATCHES)
    return times[1:]
