"""Codes of several sweeps: what their training steps and their reading cost beside one sweep."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks.common import Result, Target, spread, track
from benchmarks.sparse import WIDTH, Point, random_samples, stack_of, take_step

STEP, READ, REFITTED = 2.5, 5.0, 1.2
"""Largest ratios to one sweep: of a step with three, a code of five, a code of one with a refit."""
MODELS = ("tied_topk", "topk", "spike_slab")
TRAINED: dict[str, dict[str, Any]] = {"1 sweep": {}, "3 sweeps": {"sweeps": 3}}
HELD: dict[str, dict[str, Any]] = {"3, gradient through the last": {"sweeps": 3, "through": "last"}}
"""Gradients through fewer sweeps, which need a tied model."""
READINGS = {"1 sweep": (1, 0), "1, refit": (1, 3), "3 sweeps": (3, 0), "5 sweeps": (5, 0)}
"""Numbers of sweeps, and of steps of a refit."""


@dataclass(frozen=True)
class Size:
    """How much is measured: the models, their units, and the repetitions."""

    models: tuple[str, ...] = MODELS
    units: int = 4096
    steps: int = 9


QUICK = Size(("tied_topk",), 512, 2)


def measure(size: Size) -> Result:
    """Measure steps and codes of each model, all ways in turns."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    targets = []
    for model in track(size.models, "explaining away"):
        point = Point(model, size.units)
        for what, (ways, limits) in {
            "training step": (_steps(point), {"3 sweeps": STEP}),
            "encoding": (_codes(point), {"5 sweeps": READ, "1, refit": REFITTED}),
        }.items():
            found = {name: spread(times) for name, times in _in_turns(ways, size.steps).items()}
            one = found["1 sweep"]["median"]
            for name, cell in found.items():
                ratio = round(cell["median"] / one, 2)
                about = {"model": model, "what": what, "sweeps": name}
                rows.append({**about, "milliseconds": cell, "to_one_sweep": ratio})
                if name in limits:
                    targets.append(Target(f"{what}, {name}, {model}", ratio, limits[name]))
    setting = {"in_features": WIDTH, "units": size.units, "active": Point.active}
    setting |= {"batch": Point.batch_size, "threads": 1, "repetitions": size.steps}
    return Result("explaining", "Codes of several sweeps beside one", setting, rows, targets)


def _steps(point: Point) -> dict[str, Callable[[], Any]]:
    samples_ND = random_samples("cpu")
    found: dict[str, Callable[[], Any]] = {}
    for name, options in (TRAINED | (HELD if point.model != "topk" else {})).items():
        more = tuple(f"model.{key}={value}" for key, value in options.items())
        stack = stack_of(replace(point, more=more), samples_ND, 1.0)
        found[name] = partial(take_step, stack, samples_ND, point)
    return found


def _codes(point: Point) -> dict[str, Callable[[], Any]]:
    samples_ND = random_samples("cpu")
    found: dict[str, Callable[[], Any]] = {}
    for name, (sweeps, refit) in READINGS.items():
        more = f"model.read_sweeps={sweeps}", f"model.refit={refit}"
        (replica,) = stack_of(replace(point, more=more), samples_ND, 1.0).replicas
        x_BD = samples_ND[: point.batch_size]
        found[name] = partial(torch.no_grad()(replica.model.encode), x_BD)
    return found


def _in_turns(ways: dict[str, Callable[[], Any]], times: int) -> dict[str, list[float]]:
    """Return the milliseconds of each way; the first turn sets up what stays."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: some[1:] for name, some in taken.items()}
