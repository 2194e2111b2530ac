"""Sparse steps beside dense ones, and beside the least that a step must do."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate

from benchmarks.common import Result, Target, devices, rows_not_measured, spread, track
from benchmarks.step import random_block
from benchmarks.sweeps import compose_run
from benchmarks.width import exponent
from implicit_em.config.spec import RunSpec
from implicit_em.engine.stack import BareReplica, Stack

OF_THE_LEAST = 1.5
"""Largest ratio of a TopK step to its encoder's product, search and optimizer together."""
OF_DENSE = 0.3
"""Largest ratio of a sparse step of the derived model to its dense one."""
GROWTH = 1.05
"""Largest exponent of the step time in K."""
SAMPLES, WIDTH = 20_000, 384
STILL = ["optimizer=adam", "lr.value=1e-9"]
"""A rate so small that the number of active units stays."""


@dataclass(frozen=True)
class Point:
    """A step: the model, its units K, its active units, and the batch size."""

    model: str
    units: int = 4096
    active: int = 32
    batch_size: int = 1024

    def __str__(self) -> str:
        return f"{self.model}, K = {self.units:,}, {self.active} active, batch {self.batch_size:,}"


FAMILIES = ("topk", "encoder", "l1", "batch_topk", "jump_relu", "gated")
WIDER = (1024, 16384, 65536)
POINTS = (
    *map(Point, FAMILIES),
    *(Point("topk", units) for units in WIDER),
    *(Point("encoder", units) for units in WIDER[1:]),
    *(Point("topk", active=active) for active in (8, 256)),
    *(Point("topk", batch_size=batch_size) for batch_size in (256, 4096)),
)


@dataclass(frozen=True)
class Size:
    """How much is measured: the points, and the steps of each kind at each point."""

    points: tuple[Point, ...] = POINTS
    steps: int = 7


QUICK = Size((Point("topk", 1024, batch_size=256), Point("encoder", 1024, batch_size=256)), 2)


def measure(size: Size) -> Result:
    """Measure each point in a process of its own, dense and sparse steps in turns."""
    spawn = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    for device in map(str, devices()):
        if "," in device:  # half precision and compiled steps are dense
            continue
        for point in track(size.points, f"sparse, {device}"):
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                times = process.submit(_times, point, size.steps, device).result()
            row = {name: spread([1e3 * t for t in some]) for name, some in times.items()}
            medians = {name: cell["median"] for name, cell in row.items()}
            least = medians["product_ms"] + medians["search_ms"] + medians["optimizer_ms"]
            rows.append(
                {
                    "device": device,
                    "step": str(point),
                    **row,
                    "sparse_to_dense": round(medians["sparse_ms"] / medians["dense_ms"], 3),
                    "sparse_to_least": round(medians["sparse_ms"] / least, 3),
                }
            )
    setting = {"in_features": WIDTH, "threads": 1, "steps_of_each_kind": size.steps}
    return Result(
        "sparse",
        "Steps through the active units, through all units, and the least that a step must do",
        setting,
        rows + rows_not_measured("step"),
        _targets(size.points, [row for row in rows if row["device"] == "cpu"]),
    )


def _targets(points: tuple[Point, ...], rows: list[dict[str, Any]]) -> list[Target]:
    measured = dict(zip(points, rows, strict=True))
    targets = []
    for model, column, limit in (
        ("topk", "sparse_to_least", OF_THE_LEAST),
        ("encoder", "sparse_to_dense", OF_DENSE),
    ):
        row = measured.get(Point(model), {})
        targets.append(Target(f"{column.replace('_', ' ')}, {model}", row.get(column), limit))
        wide = [Point(model, units) for units in (4096, *WIDER[1:])]
        growth = None
        if all(point in measured for point in wide):
            costs = [measured[point]["sparse_ms"]["median"] for point in wide]
            growth = exponent([point.units for point in wide], costs)
        targets.append(Target(f"exponent of the sparse step in K, {model}", growth, GROWTH))
    return targets


def _times(point: Point, steps: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of each kind of step, and of its parts."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    samples_ND = torch.randn(SAMPLES, WIDTH, generator=generator).to(device)
    kinds = {
        "dense_ms": _stack(point, samples_ND, 0.0),
        "sparse_ms": _stack(point, samples_ND, 1.0),
    }
    x_BD = samples_ND[: point.batch_size]
    (replica,) = kinds["dense_ms"].replicas
    optimizer: Any = replica.bare_optimizer
    weight_KD = replica.model.weight.detach()
    z_BK = x_BD @ weight_KD.mT
    searched, count = z_BK, point.active
    if point.model == "batch_topk":
        searched, count = z_BK.flatten(), point.active * point.batch_size
    parts: dict[str, Callable[[], Any]] = {
        **{name: partial(_step, stack, samples_ND, point) for name, stack in kinds.items()},
        "product_ms": partial(torch.mm, x_BD, weight_KD.mT),
        "search_ms": partial(torch.topk, searched, count, sorted=False),
        "optimizer_ms": optimizer.step,
    }
    if "topk" not in point.model:
        del parts["search_ms"]
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(steps + 1):  # the first one sets up what stays
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {"search_ms": [0.0], **{name: some[1:] for name, some in times.items()}}


def _step(stack: Stack, samples_ND: torch.Tensor, point: Point) -> None:
    stack.train([random_block(samples_ND, point.batch_size, 1)])


def _stack(point: Point, samples_ND: torch.Tensor, share: float) -> Stack:
    """Return a stack of one run with about ``point.active`` active units a sample."""
    settings = [f"model={point.model}", f"model.hidden={point.units}", *STILL]
    settings += [f"model.k={point.active}"] if "topk" in point.model else []
    spec = RunSpec.of(compose_run(settings))
    torch.manual_seed(0)
    module = spec.build_module(WIDTH).to(samples_ND.device)
    if "topk" not in point.model:
        module.model.place_biases(samples_ND[:2048], point.active / point.units)
    if point.model == "jump_relu":  # active above its threshold, not above 0
        with torch.no_grad():
            module.model.encoder.linear.bias.add_(module.model.log_threshold.exp())
    optimizer = instantiate(spec.settings["optimizer"], _partial_=True)(module.model.parameters())
    return Stack([BareReplica(module.model, module.objective, optimizer, sparse_up_to=share)])
