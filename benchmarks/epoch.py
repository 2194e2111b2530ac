"""``python -m benchmarks.epoch``: a training epoch of the project against a plain PyTorch loop.

Both train the derived encoder on MNIST, in turns within one process: the project as ``train.py``
does it by default, with its history, W&B (offline), checkpoints and curves; the plain loop with
nothing but the steps themselves.
"""

import argparse
import gc
import io
import itertools
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

import implicit_em.resolvers  # noqa: F401  (conf/ uses them)
from implicit_em.config import to_plain
from implicit_em.files import write_json
from implicit_em.training import MONITORING_SHARE, load_data, monitoring_cost, train

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "epoch.json"
RATIO = 1.5
"""What the project may cost, in epochs of the plain loop."""


class EpochClock(Callback):
    """Writes the seconds of each epoch and of each measurement of the curves, as JSON.

    An epoch lasts from its own start to the start of the next, so that whatever happens in between
    counts.

    Args:
        path: of the JSON file.

    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._starts: list[float] = []
        self._curves: dict[int, float] = {}
        self._curves_start = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        """Begin an epoch, and end the one before."""
        self._starts.append(time.perf_counter())

    def on_validation_start(self, *_: Any) -> None:
        """Begin a measurement of the curves."""
        self._curves_start = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """End a measurement of the curves."""
        self._curves[trainer.current_epoch] = time.perf_counter() - self._curves_start

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """End the last epoch and write the file."""
        starts = [*self._starts, time.perf_counter()]
        epochs = [end - start for start, end in itertools.pairwise(starts)]
        curves = [self._curves.get(epoch, 0.0) for epoch in range(len(epochs))]
        interval = trainer.check_val_every_n_epoch
        write_json(self.path, {"epochs": epochs, "curves": curves, "interval": interval})


def compose_run(epochs: int, clock_file: Path) -> DictConfig:
    """Return the default configuration, without the probe and with a clock."""
    overrides = [
        f"trainer.max_epochs={epochs}",
        "probe=none",
        "+callbacks.clock._target_=benchmarks.epoch.EpochClock",
        "+callbacks.clock.path=null",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    cfg.callbacks.clock.path = str(clock_file)
    cfg.data.root = str(ROOT / "data")
    return cfg


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


def project_epochs(epochs: int) -> dict[str, Any]:
    """Train by the project; returns what ``EpochClock`` wrote."""
    with tempfile.TemporaryDirectory() as directory:
        clock_file = Path(directory) / "clock.json"
        with output_to(Path(directory) / "train.log"):
            train(compose_run(epochs, clock_file), Path(directory) / "run")
        return json.loads(clock_file.read_text())


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
    linear = nn.Linear(images_ND.shape[1], cfg["model"]["hidden"])
    optimizer = torch.optim.Adam(linear.parameters(), lr=cfg["lr"]["value"], fused=True)
    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        for batch in torch.randperm(len(images_ND)).split(cfg["data"]["batch_size"]):
            x = images_ND.index_select(0, batch).float().div_(255)
            energies = linear(x).relu()
            optimizer.zero_grad()
            plain_objective(energies).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - started)
    return seconds


def measure(epochs: int, repeats: int) -> dict[str, Any]:
    """Time both in turns, ``epochs`` after one of warm-up each; returns the result's content."""
    cfg = to_plain(compose_run(epochs, Path()))
    torch.set_num_threads(cfg["trainer"]["threads"])
    about = machine()
    data = load_data(cfg)
    images_ND = data.split("train")[0]
    runs, plain = [], []
    for _ in range(repeats):
        gc.collect()
        runs.append(project_epochs(epochs + 1))
        plain.append(statistics.mean(plain_epochs(images_ND, cfg, epochs + 1)[1:]))
    project = [statistics.mean(run["epochs"][1:]) for run in runs]
    monitored, components = len(data.monitored_indices()), cfg["model"]["hidden"]
    assumed = monitoring_cost(monitored, components, data.in_features)
    return {
        "machine": about,
        "setting": {
            "images": len(images_ND),
            "batch_size": cfg["data"]["batch_size"],
            "hidden": components,
            "epochs": epochs,
            "repeats": repeats,
        },
        "project_seconds": spread(project),
        "plain_seconds": spread(plain),
        "ratio": spread([ours / theirs for ours, theirs in zip(project, plain, strict=True)]),
        "curves": curves_cost(runs, monitored / len(data.train_indices()))
        | {"assumed_cost": round(assumed, 4)},
    }


def curves_cost(runs: Sequence[Mapping[str, Any]], images: float) -> dict[str, Any]:
    """Return the cost of measuring an image against training on it, and the share of the time.

    Args:
        runs: what ``EpochClock`` wrote.
        images: measured at a time, over those of a training epoch.

    """
    costs = []
    for run in runs:
        pairs = list(zip(run["epochs"], run["curves"], strict=True))[1:]
        training = statistics.mean(epoch - curves for epoch, curves in pairs)
        costs.append(statistics.mean(curves for _, curves in pairs if curves) / training / images)
    interval = runs[0]["interval"]
    return {
        "cost_per_image": spread(costs),
        "interval_epochs": interval,
        "share_of_training": spread([cost * images / interval for cost in costs]),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    middle = statistics.median(values)
    return {"median": round(middle, 4), "min": round(min(values), 4), "max": round(max(values), 4)}


def machine() -> dict[str, Any]:
    """Describe the machine by what decides its speed; ``load`` is what else it is doing."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """Return the name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def report(result: Mapping[str, Any]) -> str:
    """Write the result for a person."""
    about, setting, curves = result["machine"], result["setting"], result["curves"]
    verdict = "met" if result["ratio"]["median"] <= RATIO else "missed"
    within = "met" if curves["share_of_training"]["median"] <= MONITORING_SHARE else "missed"
    return "\n".join(
        (
            f"{about['cpu']}, {about['cores']} cores, load {about['load']} before; "
            f"torch {about['torch']}, {about['threads']} thread(s)",
            f"{setting['images']:,} images, batch {setting['batch_size']}, "
            f"K = {setting['hidden']}; {setting['repeats']} x {setting['epochs']} epochs each, "
            "median (min - max)",
            "",
            f"project, an epoch     {_range(result['project_seconds'])} s",
            f"plain loop, an epoch  {_range(result['plain_seconds'])} s",
            f"project / plain       {_range(result['ratio'])}  target <= {RATIO}: {verdict}",
            "",
            f"cost of measuring an image against training on it: "
            f"{_range(curves['cost_per_image'])}; assumed {curves['assumed_cost']}",
            f"share of the training time, every {curves['interval_epochs']} epochs: "
            f"{_range(curves['share_of_training'], 100, 1)} %  "
            f"target <= {100 * MONITORING_SHARE:g} %: {within}",
        )
    )


def _range(values: Mapping[str, float], factor: float = 1, digits: int = 3) -> str:
    median, least, most = (f"{factor * values[k]:.{digits}f}" for k in ("median", "min", "max"))
    return f"{median} ({least} - {most})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write ``benchmarks/results/epoch.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.epoch", description=__doc__)
    parser.add_argument("--epochs", type=int, default=6, help="measured in a repeat (default: 6)")
    parser.add_argument("--repeats", type=int, default=5, help="of both in turn (default: 5)")
    options = parser.parse_args(arguments)
    if options.epochs < 2 or options.repeats < 1:
        parser.error("at least 2 epochs and 1 repeat: the curves are not measured in every epoch")
    os.environ["WANDB_MODE"] = "offline"
    result = measure(options.epochs, options.repeats)
    write_json(RESULT, result)
    print(report(result))
    print(f"\nWritten to {RESULT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
