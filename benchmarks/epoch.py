"""Part (a): a training epoch of the project against a plain PyTorch loop.

Both train the derived encoder on MNIST, in turns within one process: the project as ``train.py``
does it by default, with its history, W&B (offline), checkpoints and curves; the plain loop with
nothing but the steps themselves.

Step logging is measured apart: the same epochs with and without it, in turns. One size is that of
the runs above. The other has random vectors of MiniLM's width.
"""

import gc
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.clock import WITH_CLOCK, epoch_seconds, read_clocks
from benchmarks.common import (
    CPU,
    Device,
    Result,
    Target,
    devices,
    rows_not_measured,
    spread,
    track,
)
from benchmarks.sweeps import compose_run
from implicit_em.training.measurement import MONITORING_SHARE, monitoring_cost
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec

RATIO = 1.0
"""What the project may cost, in epochs of the plain loop."""
LOGGED_RATIO = 1.02
"""What an epoch with step logging may cost, in epochs without."""
WIDTH = 384
EVERY = "5"
"""Steps from one row to the next, as ``auto`` has it for an epoch of a million vectors."""
LANGUAGE = (
    *("data=tensors", "data.batch_size=1024", "data.val_size=2048", "data.normalize=scale"),
    *("model=topk", "model.hidden=2048", "model.l0=32", "picture=false"),
)


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        epochs: in a repeat, after the first; at least 2, as not every epoch measures the curves.
        repeats: of both in turn.
        overrides: of the default run.
        vectors: number of vectors in an epoch, as wide as a language model's.
    """

    epochs: int = 6
    repeats: int = 5
    overrides: tuple[str, ...] = ()
    vectors: int = 2**16


QUICK = Size(epochs=2, repeats=1, vectors=2**12)


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send what a run prints and logs to a file, as its own ``train.log`` takes it."""
    handler = logging.FileHandler(path)
    logger = logging.getLogger("implicit_em")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def project_epochs(overrides: Sequence[str]) -> dict[str, Any]:
    """Train by the project; returns what ``EpochClock`` wrote."""
    with tempfile.TemporaryDirectory() as directory:
        with output_to(Path(directory) / "train.log"):
            train(compose_run(overrides), Path(directory) / "run")
        (clock,) = read_clocks(Path(directory))
        return clock


def plain_objective(energies_BK: Tensor) -> Tensor:
    """Return the paper's objective for autograd, its terms sharing their statistics."""
    centred_BK = energies_BK - energies_BK.mean(0)
    variance_K = centred_BK.square().sum(0) / (len(energies_BK) - 1)
    standardised_BK = centred_BK * variance_K.clamp_min(1e-12).rsqrt()
    correlations_KK = standardised_BK.T @ standardised_BK / (len(energies_BK) - 1)
    lse = -torch.logsumexp(-energies_BK, 1).sum()
    variance = -(variance_K + 1e-6).log().sum()
    decorrelation = correlations_KK.square().sum() - correlations_KK.diagonal().square().sum()
    return lse + variance + decorrelation


def plain_epochs(images_ND: Tensor, cfg: Mapping[str, Any], epochs: int) -> list[float]:
    """Train by a loop without any framework; returns the seconds of each epoch."""
    device = images_ND.device
    linear = nn.Linear(images_ND.shape[1], cfg["model"]["hidden"], device=device)
    optimizer = torch.optim.Adam(linear.parameters(), lr=cfg["lr"]["value"], fused=True)
    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        for batch in torch.randperm(len(images_ND), device=device).split(cfg["data"]["batch_size"]):
            x = images_ND.index_select(0, batch).float().div_(255)
            energies = linear(x).relu()
            optimizer.zero_grad()
            plain_objective(energies).backward()
            optimizer.step()
        if images_ND.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds


def measure(size: Size, on: Sequence[Device] = ()) -> Result:
    """Time both in turns; step logging only if no devices are given."""
    rows, targets = [], []
    for device in on or devices():
        row = _compare(device, size)
        rows.append(row)
        share = row["curves_share_of_training_%"]["median"]
        targets += [
            Target(f"project / plain, {device}", row["ratio"]["median"], RATIO),
            Target(f"curves, {device}: share of training, %", share, 100 * MONITORING_SHARE),
        ]
    for row in () if on else _logging_costs(size):
        rows.append(row)
        name = f"epoch that logs steps / one that does not, {row['device']}"
        targets.append(Target(name, row["logging_ratio"]["median"], LOGGED_RATIO))
    spec = RunSpec.of(compose_run(size.overrides))
    cfg = spec.settings
    setting = {
        "batch_size": cfg["data"]["batch_size"],
        "hidden": cfg["model"]["hidden"],
        "threads": cfg["trainer"]["threads"],
        "epochs": size.epochs,
        "repeats": size.repeats,
    }
    return Result(
        "epoch",
        "Seconds an epoch: the project, loggers on, and a plain loop without any framework",
        setting,
        rows + rows_not_measured("project_s", on),
        targets,
    )


def _compare(device: Device, size: Size) -> dict[str, Any]:
    overrides = [*size.overrides, *device.overrides, "probe=none", WITH_CLOCK]
    overrides.append(f"trainer.max_epochs={size.epochs + 1}")
    spec = RunSpec.of(compose_run(overrides))
    cfg = spec.settings
    if cfg["trainer"]["threads"]:
        torch.set_num_threads(cfg["trainer"]["threads"])
    data = spec.build_data()
    images_ND = data.split("train")[0].to(device.type)
    clocks, plain = [], []
    for _ in track(range(1, size.repeats + 1), f"epoch, {device}"):
        gc.collect()
        clocks.append(project_epochs(overrides))
        with device.arithmetic():
            plain.append(statistics.mean(plain_epochs(images_ND, cfg, size.epochs + 1)[1:]))
    project = [statistics.mean(epoch_seconds(clock)) for clock in clocks]
    monitored, components = len(data.monitored_indices()), cfg["model"]["hidden"]
    assumed = monitoring_cost(monitored, components, data.in_features)
    return {
        "device": str(device),
        "project_s": spread(project),
        "plain_s": spread(plain),
        "ratio": spread([ours / theirs for ours, theirs in zip(project, plain, strict=True)]),
        **_curves_cost(clocks, monitored / len(data.train_indices())),
        "curves_assumed_cost": round(assumed, 4),
    }


def _logging_costs(size: Size) -> Iterator[dict[str, Any]]:
    """Time epochs with and without step logging, of each size, on a CPU."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "vectors.npy"
        vectors = generator.standard_normal((size.vectors * 5 // 4, WIDTH), dtype=np.float32)
        np.save(path, vectors)
        sizes: dict[str, tuple[Sequence[str], str]] = {
            "MNIST": (size.overrides, "auto"),
            "vectors, K = 2,048": ((*LANGUAGE, f"data.path={path}"), EVERY),
        }
        for name, (own, every) in sizes.items():
            overrides = [*own, *CPU.overrides, "probe=none", WITH_CLOCK]
            overrides.append(f"trainer.max_epochs={size.epochs + 1}")
            seconds: dict[str, list[float]] = {"0": [], every: []}
            for _ in track(range(size.repeats), f"step logging, {name}"):
                for each, found in seconds.items():
                    gc.collect()
                    flag = f"trainer.log_every_n_steps={each}"
                    found.append(
                        statistics.median(epoch_seconds(project_epochs([*overrides, flag])))
                    )
            logged, not_logged = seconds[every], seconds["0"]
            yield {
                "device": f"{CPU}, {name}",
                "logging_steps_s": spread(logged),
                "without_s": spread(not_logged),
                "logging_ratio": spread([a / b for a, b in zip(logged, not_logged, strict=True)]),
            }


def _curves_cost(clocks: Sequence[Mapping[str, Any]], images: float) -> dict[str, Any]:
    """Return the cost of measuring an image against training on it, and the share of the time.

    Args:
        clocks: what ``EpochClock`` wrote.
        images: measured at a time, over those of a training epoch.
    """
    costs = []
    for clock in clocks:
        pairs = list(zip(epoch_seconds(clock), clock["curves"][1:], strict=True))
        training = statistics.mean(epoch - curves for epoch, curves in pairs)
        costs.append(statistics.mean(curves for _, curves in pairs if curves) / training / images)
    interval = clocks[0]["interval"]
    return {
        "curves_cost_per_image": spread(costs),
        "curves_every": interval,
        "curves_share_of_training_%": spread([100 * cost * images / interval for cost in costs]),
    }
