"""What a study trains: runs composed from grids; of tuned families, the runs of each stage."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import pandas as pd
from hydra import compose
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_em.base.errors import ConfigError, nearest
from implicit_em.base.settings import nodes
from implicit_em.config.composing import composing, key_of
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.config.schema import to_plain
from implicit_em.sweeps.jobs import TaskComposer, enumerate_jobs
from implicit_em.training.check import check
from implicit_em.training.directory import RunDirectory
from implicit_em.training.spec import RunSpec
from implicit_em_studies.shared.protocol import OF, Protocol
from implicit_em_studies.shared.runs import Place, Run

FIXED = ("experiment", "callbacks", "model", "loss")
"""Keys that every sweep sets itself, beside its axes; overrides may not change them."""
AT_MOST_WIDTH = ("pca", "ica")
"""Controls that have no more units than inputs."""
AXES = "axes"
Grid = Mapping[str, Any]
"""Settings of a sweep by their keys, which may be groups, and under ``axes`` those that vary.

The values of an axis stand in one text, in Hydra's notation.
"""
P = TypeVar("P", bound=Protocol)


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
        typed = [*as_overrides(grid), *overrides]
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


def as_overrides(grid: Grid) -> list[str]:
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
        key = key_of(override)
        if key.startswith("hydra") or key in {*FIXED, *axes} - {"seed"}:
            raise ConfigError(f"{override}: the experiments set {key} themselves")


class Setting(NamedTuple):
    """A setting of a family's grid, or a control."""

    family: str  # or the file of controls
    axes: Mapping[str, str]  # value of each axis, in Hydra's notation
    cfg: DictConfig  # without the settings of a stage


def compose_settings(
    names: Sequence[str], grids: Mapping[str, Grid], conf: Path, overrides: Sequence[str] = ()
) -> list[Setting]:
    """Compose all settings of the grids with these names.

    Raises:
        ConfigError: if a name has no grid, or a setting cannot be composed.
    """
    if unknown := [name for name in names if name not in grids]:
        raise ConfigError(f"{unknown[0]}: has no grid; allowed: {', '.join(grids)}")
    composed = compose_sweeps({name: grids[name] for name in names}, conf, overrides)
    return [Setting(place.sweep, place.axes, cfg) for place, cfg in composed]


def one_of_each_family(settings: Sequence[Setting]) -> list[Setting]:
    """Return the first setting of each family."""
    return list({setting.family: setting for setting in reversed(settings)}.values())


@dataclass
class Stages(Generic[P]):
    """The runs of each stage in one place, such as a cell or one language model's activations.

    Runs of one fingerprint share a directory.

    Args:
        name: name of the place.
        protocol: protocol of the study, or of a part of it.
        directory: directory of all runs that may be shared.
        settings: settings of the families' grids.
        control_settings: settings of the controls.
        own: function of a family that returns the settings of its runs in this place; they take
            precedence over the settings of a stage.
        inputs: number of inputs, where it bounds the number of units of some controls.
    """

    name: str
    protocol: P
    directory: Path
    settings: Sequence[Setting]
    control_settings: Sequence[Setting]
    own: Callable[[str], Mapping[str, Any]]
    inputs: int | None = None

    def grids(self) -> list[Run]:
        """Return the runs of the grids: each setting once per family and level of the tuning."""
        return [run for _, run in self._tuned]

    @cached_property
    def _tuned(self) -> list[tuple[Setting, Run]]:
        every = product(self.settings, self.protocol.tuned_levels)
        each = [(one, self.run(one, {**self.protocol.tuning, **level})) for one, level in every]
        return list({(one.family, run.fingerprint): (one, run) for one, run in each}.values())

    def picked(self, chosen: pd.DataFrame) -> list[Setting]:
        """Return the settings of the runs that the columns ``family`` and ``run`` name."""
        names = set(zip(chosen["family"], chosen["run"], strict=True))
        return [one for one, run in self._tuned if (one.family, run.fingerprint) in names]

    def finals(
        self, chosen: Sequence[Setting], levels: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Run]:
        """Return the runs of chosen settings, once per level and seed.

        ``levels`` are those of the protocol if none are given.
        """
        return [
            self._final(one, {**level, "seed": seed})
            for level, one in product(levels or self.protocol.levels, chosen)
            for seed in self.protocol.seeds_for(one.family)
        ]

    def varied(self, chosen: Iterable[Setting]) -> list[Setting]:
        """Return the variants of chosen settings."""
        found = []
        for setting in chosen:
            for name, variant in self.protocol.variants.items():
                if variant[OF] == setting.family:
                    cfg = setting.cfg.copy()
                    for key in variant.keys() - {OF}:
                        OmegaConf.update(cfg, key, variant[key], force_add=True)
                    found.append(Setting(name, setting.axes, cfg))
        return found

    def controls(self) -> list[Run]:
        """Return the runs of the controls, once per seed if they draw random numbers."""
        return [
            self._final(Setting(axes["model"], axes, cfg), {"seed": seed})
            for _, axes, cfg in self.control_settings
            for seed in ([int(axes["seed"])] if "seed" in axes else self.protocol.seeds)
        ]

    def planned(self) -> list[Run]:
        """Return the runs to check: one of each setting, a final of each family, and the controls.

        A setting is taken at the first of its levels, a final of a family or variant at the last. A
        mistake in another run would also be in one of these.
        """
        level, seed = self.protocol.levels[-1], self.protocol.seeds[0]
        families = one_of_each_family(self.settings)
        every = [*families, *self.varied(families)]
        finals = [self._final(one, {**level, "seed": seed}) for one in every]
        first = {id(one): run for one, run in reversed(self._tuned)}
        return [*reversed(first.values()), *finals, *self.controls()]

    def _final(self, setting: Setting, more: Mapping[str, Any]) -> Run:
        return self.run(setting, {**self.protocol.finals, **more})

    def run(self, setting: Setting, settings: Mapping[str, Any]) -> Run:
        """Return the run of a setting with the settings of a stage.

        A model that is not trained stays so, and one whose ``hidden`` is null keeps it.
        """
        family, axes, cfg = setting.family, setting.axes, setting.cfg.copy()
        changes = {**self.protocol.always, **settings, **self.own(family)}
        if family in AT_MOST_WIDTH and self.inputs:
            changes["model.hidden"] = min(changes["model.hidden"], self.inputs)
        if cfg.trainer.max_epochs == 0:
            changes.pop("trainer.max_epochs", None)
        if cfg.model.hidden is None:
            changes.pop("model.hidden", None)
        for key, value in changes.items():
            try:
                OmegaConf.update(cfg, key, value)
            except OmegaConfBaseException as error:
                hint = nearest(key, [name for name, _ in nodes(to_plain(cfg))])
                raise ConfigError(f"{key}={value}: no such setting; {hint}") from error
        fingerprint = config_fingerprint(cfg)
        directory = self.directory / family / fingerprint
        completed = RunDirectory(directory).completed_metrics() is not None
        return Run(cfg, fingerprint, directory, [Place(family, axes)], completed, batch=family)


def check_all(runs: Iterable[Run], here: bool = True) -> None:
    """Refuse runs that could not be trained, ``here`` with the device and files of this machine.

    Raises:
        ConfigError: of the first of them, with its family and setting.
    """
    for run in runs:
        try:
            check(run.spec, here)
        except ConfigError as error:
            raise ConfigError(f"{error} ({run.sweep}, {settings_of(run)})") from error


def row_of(run: Run, place: Place | None = None) -> dict[str, Any]:
    """Return what names a run in a table; in a ``place`` other than its first if one is given."""
    family, axes = place or run.places[0]
    row = {"family": family, "settings": describe(run.cfg, axes)}
    return row | {"seed": run.cfg.seed, "run": run.fingerprint}


def tuning_table(
    runs: Sequence[Run], numbers: Sequence[str], others: Sequence[str] = ()
) -> pd.DataFrame:
    """Return what ``metrics.json`` says of runs, a row for each place of a run.

    The entries are ``numbers``, null if a run diverged, ``others``, and ``error``, which says why a
    run diverged.
    """
    rows = []
    for run in runs:
        metrics = run.metrics()
        own = {key: metrics.get(key) for key in (*numbers, *others, "error")}
        rows += [row_of(run, place) | own for place in run.places]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))


def settings_of(run: Run) -> str:
    """Return a run's values of its family's axes as text: ``k=3, lr=0.001``."""
    return describe(run.cfg, run.axes)


def describe(cfg: DictConfig, axes: Mapping[str, str]) -> str:
    """Return a configuration's values of axes as text; a config group's value is its option."""
    parts = []
    for key, option in axes.items():
        value = OmegaConf.select(cfg, key.lstrip("+"))
        value = option if OmegaConf.is_config(value) else value
        name = key.removesuffix(".value").removesuffix(".weight").rpartition(".")[2]
        parts.append(f"{name}={value:g}" if isinstance(value, int | float) else f"{name}={value}")
    return ", ".join(parts)


def training_of(runs: Sequence[Run]) -> str:
    """Return optimizers and schedules of runs as text."""
    found = set()
    for run in runs:
        optimizer, schedule = run.cfg.optimizer._target_, run.cfg.lr.schedule
        found.add((optimizer, schedule._target_.rpartition(".")[2] if schedule else ""))
    return "; ".join(
        f"{optimizer.rpartition('.')[2]}, {schedule or 'a constant rate'}"
        for optimizer, schedule in sorted(found)
    )
