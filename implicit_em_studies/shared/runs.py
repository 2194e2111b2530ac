"""The runs of a study, composed from grids of settings."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from hydra import compose
from hydra.utils import get_class
from omegaconf import DictConfig

from implicit_em.base.errors import ConfigError
from implicit_em.config.check import check
from implicit_em.config.composing import composing
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.config.spec import RunSpec
from implicit_em.models import SparseAutoencoder
from implicit_em.sweeps.jobs import TaskComposer, enumerate_jobs
from implicit_em.training.directory import RunDirectory
from implicit_em.training.loading import load_as_trained

FIXED = ("experiment", "callbacks", "model", "loss")
"""Keys that every sweep sets itself, beside its axes; overrides may not change them."""
AXES = "axes"
Grid = Mapping[str, Any]
"""Settings of a sweep by their keys, which may be groups, and under ``axes`` those that vary.

The values of an axis stand in one text, in Hydra's notation.
"""


class Place(NamedTuple):
    """A sweep, and a run's value of each of its axes in Hydra's notation."""

    sweep: str
    axes: Mapping[str, str]


@dataclass
class Run:
    """One training run of a study.

    Args:
        places: the run's place in each sweep that it belongs to; the first one names it.
        completed: whether the directory held the complete run when the study was planned.
        batch: runs of one batch may train at the same time. Runs whose steps differ much in cost
            need another batch, or workers wait for each other.
    """

    cfg: DictConfig
    fingerprint: str
    directory: Path
    places: list[Place]
    completed: bool = False
    batch: str = ""
    group: str | None = None  # in W&B; ``None`` for the first sweep
    tags: list[str] = field(default_factory=list)

    @cached_property
    def spec(self) -> RunSpec:
        """The run's settings, resolved and validated."""
        return RunSpec.of(self.cfg)

    @property
    def label(self) -> str:
        """Names of the sweep's and the run's directory."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def sweep(self) -> str:
        """The first sweep that the run belongs to."""
        return self.places[0].sweep

    @property
    def axes(self) -> Mapping[str, str]:
        """Its values of that sweep's axes."""
        return self.places[0].axes

    @property
    def sweeps(self) -> list[str]:
        """All sweeps that the run belongs to."""
        return [place.sweep for place in self.places]

    def metrics(self) -> dict[str, Any]:
        """Read ``metrics.json``; empty if there is none yet."""
        return RunDirectory(self.directory).read_metrics() or {}

    def model(self) -> Any:
        """Load the trained model, on the CPU, for the samples that the run's data module gives.

        Its class and its activation's may be a user's own.
        """
        parts = [self.cfg.model, self.cfg.model.get("activation")]
        classes = [get_class(part._target_) for part in parts if part is not None]
        return load_as_trained(self.directory, classes)[0]


def matrices_of(model: Any) -> dict[str, np.ndarray]:
    """Return the rows of the ``encoder`` and the columns of a ``decoder``, each ``(K, D)``."""
    matrices = {"encoder": model.weight}
    if isinstance(model, SparseAutoencoder):
        matrices["decoder"] = model.decoder.weight.mT
    return {name: weight.detach().numpy() for name, weight in matrices.items()}


def table(runs: Sequence[Run], sweeps: Sequence[str]) -> pd.DataFrame:
    """Return one row per run of the sweeps: its metrics, its values of the axes, and ``directory``.

    An axis is called by the last part of its key: ``lr`` for ``lr.value``.
    """
    rows = []
    for run in runs:
        for place in run.places:
            if place.sweep in sweeps:
                row = {**run.metrics(), "directory": run.directory}
                for key, value in place.axes.items():
                    row[key.removesuffix(".value").rpartition(".")[2]] = _number(value)
                rows.append(row)
    frame = pd.DataFrame(rows)
    nothing = frame.columns[frame.isna().all()]
    return frame.astype(dict.fromkeys(nothing, float))


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def plan_sweeps(
    sweeps: Mapping[str, Grid], directory: Path, conf: Path, overrides: Sequence[str] = ()
) -> list[Run]:
    """Compose and check every run of the sweeps; a run that several share appears once.

    A complete run of the same fingerprint, anywhere below ``directory``, is reused.

    Raises:
        ConfigError: if a run cannot be trained, or its directory holds another run.
    """
    runs: dict[str, Run] = {}
    complete = {
        metrics["config_fingerprint"]: path.parent
        for path in sorted(directory.glob("*/*/metrics.json"))
        if (metrics := RunDirectory(path.parent).completed_metrics())
    }
    for place, cfg in compose_sweeps(sweeps, conf, overrides):
        spec = RunSpec.of(cfg)
        fingerprint = spec.fingerprint
        if fingerprint in runs:
            runs[fingerprint].places.append(place)
            continue
        check(spec)
        job = ",".join(f"{key}={value}" for key, value in sorted(place.axes.items()))
        where = complete.get(fingerprint, directory / Path(place.sweep).name / job)
        runs[fingerprint] = Run(cfg, fingerprint, where, [place], fingerprint in complete)
        runs[fingerprint].spec = spec
    for run in runs.values():
        found = RunDirectory(run.directory)
        if found.config.exists() and config_fingerprint(found.read_config()) != run.fingerprint:
            raise ConfigError(
                f"{run.directory}: holds a run of other settings; nothing is overwritten: name "
                "another --directory"
            )
    return list(runs.values())


def compose_sweeps(
    sweeps: Mapping[str, Grid], conf: Path, overrides: Sequence[str]
) -> list[tuple[Place, DictConfig]]:
    """Return the place and the configuration of each job of the sweeps.

    Raises:
        ConfigError: if a job cannot be composed, or an override changes what a sweep sets itself.
    """
    jobs = []
    for sweep, grid in sweeps.items():
        typed = [*_as_overrides(grid), *overrides]
        with composing("train", typed, conf) as loader:
            base = compose("train", overrides=typed, return_hydra_config=True)
            if AXES in grid:
                base.hydra.sweeper.params = grid[AXES]
            axes = list(base.hydra.sweeper.params or ())
            _refuse_fixed(axes, overrides)
            composer = TaskComposer(base, loader)
            for job in enumerate_jobs(base, loader):
                values = dict(override.split("=", 1) for override in job)
                place = Place(sweep, {axis: values[axis] for axis in axes})
                jobs.append((place, composer.compose(job)))
    return jobs


def _as_overrides(grid: Grid) -> list[str]:
    """Return what a grid sets beside its axes in Hydra's notation; a setting may be a new one."""
    settings = {key: value for key, value in grid.items() if key != AXES}
    return [f"{'++' * ('.' in key)}{key}={_in_words(value)}" for key, value in settings.items()]


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_in_words(item)}' for key, item in value.items())}}}"
    return value if isinstance(value, str) else json.dumps(value)


def _refuse_fixed(axes: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuse overrides of keys that an experiment sets itself; the seed may be chosen."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.startswith("hydra") or key in {*FIXED, *axes} - {"seed"}:
            raise ConfigError(f"{override}: the experiments set {key} themselves")
