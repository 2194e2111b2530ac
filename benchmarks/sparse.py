"""Sparse steps beside dense ones, and beside the least that a step must do."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from benchmarks.common import MIB, Device, Result, Target, devices, rows_not_measured, spread, track
from benchmarks.step import random_block
from benchmarks.sweeps import compose_run
from benchmarks.width import exponent, peak_bytes
from implicit_em.engine.stack import BareReplica, Stack
from implicit_em.training.spec import RunSpec

OF_THE_LEAST = 1.5
"""Largest ratio of a TopK step to its encoder's product, search and optimizer together."""
OF_DENSE = 0.3
"""Largest ratio of a sparse step of the derived model to its dense one."""
GROWTH = 1.05
"""Largest exponent of the step time in K."""
OF_TOPK, BYTES_OF_TOPK = 1.0, 0.51
"""Largest ratios of a tied step to TopK's, and of its weights and Adam's moments to TopK's."""
SAMPLES, WIDTH = 20_000, 384
STILL = ["optimizer=adam", "lr.value=1e-9"]
"""A rate so small that the number of active units stays."""


@dataclass(frozen=True)
class Point:
    """A step: the model, its units K, its active units, the batch size, and further settings."""

    model: str
    units: int = 4096
    active: int = 32
    batch_size: int = 1024
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.model}, K = {self.units:,}, {self.active} active, batch {self.batch_size:,}"


TIED = ("tied_topk", "tied_batch_topk", "spike_slab")
"""Models without a decoder of their own, whose steps are taken in turns with TopK's."""
FAMILIES = ("topk", "encoder", "l1", "batch_topk", "jump_relu", "gated", *TIED)
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


QUICK = Size(tuple(Point(m, 1024, batch_size=256) for m in ("topk", "encoder", "tied_topk")), 2)


def measure(size: Size, on: Sequence[Device] = ()) -> Result:
    """Measure each point in a process of its own, dense and sparse steps in turns."""
    spawn = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    names = [str(device) for device in on or devices()]
    for device in names:
        if "," in device:  # half precision and compiled steps are dense
            continue
        for point in track(size.points, f"sparse, {device}"):
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                memory = process.submit(_memory, point, device).result()
                times = process.submit(_times, point, size.steps, device).result()
            row = {name: spread([1e3 * t for t in some]) for name, some in times.items()}
            medians = {name: cell["median"] for name, cell in row.items()}
            least = medians["product_ms"] + medians["search_ms"] + medians["optimizer_ms"]
            others = {"dense": medians["dense_ms"], "least": least}
            if point.model in TIED:
                others["topk"] = medians["topk_ms"]
            ratios = {
                f"sparse_to_{n}": round(medians["sparse_ms"] / t, 3) for n, t in others.items()
            }
            rows.append({"device": device, "step": str(point), **row, **ratios, **memory})
    setting = {"in_features": WIDTH, "threads": 1, "steps_of_each_kind": size.steps}
    return Result(
        "sparse",
        "Steps through the active units, through all units, and the least that a step must do",
        setting,
        rows + rows_not_measured("step", on),
        _targets(size.points, [row for row in rows if row["device"] == names[0]]),
    )


def _targets(points: tuple[Point, ...], rows: list[dict[str, Any]]) -> list[Target]:
    measured = dict(zip(points, rows, strict=True))
    targets = []
    topk = measured.get(Point("topk"), {})
    for model in TIED:
        row = measured.get(Point(model), {})
        targets.append(Target(f"sparse to topk, {model}", row.get("sparse_to_topk"), OF_TOPK))
        share = round(row["weights_MiB"] / topk["weights_MiB"], 3) if row and topk else None
        targets.append(Target(f"weights and moments to topk, {model}", share, BYTES_OF_TOPK))
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


def random_samples(device: str) -> Tensor:
    """Return samples of a normal distribution."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SAMPLES, WIDTH, generator=generator).to(device)


def _memory(point: Point, device: str) -> dict[str, float]:
    """Return the size of the weights with Adam's moments, and the peak of sparse steps, in MiB.

    The peak is that above the memory in use before the model.
    """
    torch.set_num_threads(1)
    samples_ND = random_samples(device)
    few_ND = samples_ND[:256]  # to place the biases takes less memory than a step

    def train(point: Point) -> Stack:
        stack = stack_of(point, few_ND, 1.0)
        for _ in range(10):  # until freed memory fits what the next step allocates
            take_step(stack, samples_ND, point)
        return stack

    train(Point(point.model, 8, 1, 8))  # what libraries set up once is no cost of the model
    before = peak_bytes(device)
    (replica,) = train(point).replicas
    optimizer: Any = replica.bare_optimizer
    moments = [value for state in optimizer.state.values() for value in state.values()]
    kept = sum(tensor.nbytes for tensor in [*replica.model.parameters(), *moments])
    found = {"weights_MiB": kept, "peak_MiB": peak_bytes(device) - before}
    return {name: round(size / MIB, 2) for name, size in found.items()}


def _times(point: Point, steps: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of each kind of step, and of its parts."""
    torch.set_num_threads(1)
    samples_ND = random_samples(device)
    kinds = {
        "dense_ms": stack_of(point, samples_ND, 0.0),
        "sparse_ms": stack_of(point, samples_ND, 1.0),
    }
    if point.model in TIED:
        kinds["topk_ms"] = stack_of(replace(point, model="topk"), samples_ND, 1.0)
    x_BD = samples_ND[: point.batch_size]
    (replica,) = kinds["dense_ms"].replicas
    optimizer: Any = replica.bare_optimizer
    weight_KD = replica.model.weight.detach()
    z_BK = x_BD @ weight_KD.mT
    searched, count = z_BK, point.active
    if point.model == "batch_topk":
        searched, count = z_BK.flatten(), point.active * point.batch_size
    parts: dict[str, Callable[[], Any]] = {
        **{name: partial(take_step, stack, samples_ND, point) for name, stack in kinds.items()},
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


def take_step(stack: Stack, samples_ND: Tensor, point: Point) -> None:
    """Take a step on random samples."""
    stack.train([random_block(samples_ND, point.batch_size, 1)])


def stack_of(point: Point, samples_ND: Tensor, share: float) -> Stack:
    """Return a stack of one run with about ``point.active`` active units a sample."""
    settings = [f"model={point.model}", f"model.hidden={point.units}", *STILL]
    settings += [f"model.l0={point.active}"] if "topk" in point.model else []
    settings += point.more
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
