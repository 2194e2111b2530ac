"""A harvest beside the bare forward pass: the same batches, the same early stop, nothing kept."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from benchmarks.common import Device, Result, Target, devices, spread, track
from implicit_em.base.errors import ConfigError
from implicit_em.base.threads import torch_threads
from implicit_em.config import CONF
from implicit_em.language.harvest import Work, batches_of, prepare, write_shards
from implicit_em.language.model_files import find
from implicit_em.language.settings import HarvestSettings
from implicit_em.language.writing import StoreWriter

SHARE = 0.9
"""Least share of the bare forward pass's tokens a second that a harvest reaches."""
SITES = {"minilm": "resid.3", "smollm2": "resid.12"}
"""Site of each model whose weights come from a package."""


@dataclass(frozen=True)
class Size:
    """How much is measured: tokens of text for each model, and passes of each kind."""

    tokens: int = 20_000
    repeats: int = 5


QUICK = Size(tokens=2_000, repeats=1)


def measure(size: Size, on: Sequence[Device] = ()) -> Result:
    """Time both in turns, in one process."""
    rows, targets = [], []
    for name, site in SITES.items():
        settings = _settings(name, site, size)
        for device in (str(device) for device in on or devices() if "," not in str(device)):
            label = f"{settings.lm.name}, {site}, {device}"
            row = _compare(label, settings.model_copy(update={"device": device}), size)
            rows.append(row)
            share = row["share"]["median"] if "share" in row else None
            targets.append(Target(f"harvest / bare pass, {label}", share, SHARE, at_least=True))
    return Result(
        "harvest",
        "Tokens a second: a harvest, and the forward pass alone",
        {
            "tokens": size.tokens,
            "repeats": size.repeats,
            "threads": settings.threads,
            "contexts in a batch": settings.batch_size,
            "tokens of a context": settings.context.length,
        },
        rows,
        targets,
    )


def _settings(name: str, site: str, size: Size) -> HarvestSettings:
    overrides = [f"lm={name}", f"sites=[{site}]", f"tokens={size.tokens}", "shard_tokens=16384"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return HarvestSettings.of(compose("harvest", overrides=overrides))


def _compare(label: str, settings: HarvestSettings, size: Size) -> dict[str, Any]:
    try:
        find(settings.lm)
    except ConfigError as error:
        return {"model": label, "harvest, tokens/s": f"not measured: {error}"}
    rates: dict[str, list[float]] = {"bare": [], "harvest": []}
    with torch_threads(settings.threads), tempfile.TemporaryDirectory() as folder:
        work = prepare(settings, StoreWriter(folder))
        tokens = sum(shard.tokens for shard in work.shards)
        for repeat in track(range(size.repeats + 1), label):
            bare = _seconds(lambda: _pass(work))
            writer = StoreWriter(Path(folder) / str(repeat))
            writer.begin(work.manifest, work.documents, [])
            places = range(len(work.shards))
            ours = _seconds(lambda: write_shards(work, writer, places))  # noqa: B023
            if repeat:  # the first one sets up what stays
                rates["bare"].append(tokens / bare)
                rates["harvest"].append(tokens / ours)
    shares = [ours / bare for ours, bare in zip(rates["harvest"], rates["bare"], strict=True)]
    return {
        "model": label,
        **{f"{kind}, tokens/s": spread(some) for kind, some in rates.items()},
        "share": spread(shares),
    }


def _pass(work: Work) -> None:
    for shard in work.shards:
        for batch in batches_of(work, shard):
            work.model.forward(batch.ids_BL, batch.mask_BL)


def _seconds(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
