"""The runs of the comparison: grids, then chosen settings over seeds, and controls."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_em.base.errors import ConfigError
from implicit_em.compare.protocol import DERIVED, Protocol
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.studies import protocol as study_protocol
from implicit_em.studies.runs import Place, Run, compose_sweeps
from implicit_em.training.directory import RunDirectory

DIVERGED = "the loss was not finite"


class Setting(NamedTuple):
    """A setting of a family's grid, or a control."""

    family: str  # or the file of controls
    axes: Mapping[str, str]  # value of each axis, in Hydra's notation
    cfg: DictConfig  # without the settings of a stage


def compose_settings(
    names: Sequence[str],
    dataset: str,
    conf: Path,
    overrides: Sequence[str] = (),
    folder: str = "compare",
) -> list[Setting]:
    """Compose all settings in these files of a folder of ``conf/experiment``.

    Raises:
        ConfigError: if a name has no file, or a setting cannot be composed.
    """
    allowed = sorted(path.stem for path in (conf / "experiment" / folder).glob("*.yaml"))
    if unknown := [name for name in names if name not in allowed]:
        raise ConfigError(f"{unknown[0]}: not in {folder}; allowed: {', '.join(allowed)}")
    sweeps = {f"{folder}/{name}": name for name in names}
    composed = compose_sweeps(list(sweeps), conf, [f"data={dataset}", *overrides])
    return [Setting(sweeps[place.sweep], place.axes, cfg) for place, cfg in composed]


@dataclass
class Stages:
    """The runs of each stage of a part; runs of one fingerprint share a directory."""

    protocol: Protocol
    part: str
    directory: Path  # of all runs on a data set
    settings: Sequence[Setting]  # of the families' grids
    control_settings: Sequence[Setting]

    def grids(self) -> list[Run]:
        """Return the runs of the grids: each setting once per family."""
        return [run for _, run in self._tuned]

    @cached_property
    def _tuned(self) -> list[tuple[Setting, Run]]:
        each = [(setting, self._run(*setting, self.protocol.tuning)) for setting in self.settings]
        return list({(one.family, run.fingerprint): (one, run) for one, run in each}.values())

    def knobs(self) -> list[Run]:
        """Return the runs of the knobs, as those of the derived grid, but once per seed."""
        runs: dict[str, Run] = {}
        for knob, axes, cfg in self.settings:
            for seed in self.protocol.seeds:
                run = self._run(DERIVED, axes, cfg, {**self.protocol.tuning, "seed": seed})
                run.places = []
                runs.setdefault(run.fingerprint, run).places.append(Place(knob, axes))
        return list(runs.values())

    def finals(self, chosen: pd.DataFrame) -> list[Run]:
        """Return the runs of the settings that ``selection.select`` chose, once per seed."""
        picked = set(zip(chosen["family"], chosen["run"], strict=True))
        return [
            self._run(*setting, {**self.protocol.finals, "seed": seed})
            for setting, run in self._tuned
            if (setting.family, run.fingerprint) in picked
            for seed in self.protocol.seeds
        ]

    def possible_finals(self) -> list[Run]:
        """Return one final of each family; a mistake in it is a mistake in all of them."""
        first = {setting.family: setting for setting in reversed(self.settings)}
        settings = {**self.protocol.finals, "seed": self.protocol.seeds[0]}
        return [self._run(*setting, settings) for setting in first.values()]

    def controls(self) -> list[Run]:
        """Return the runs of the controls, once per seed if they draw random numbers."""
        settings = {k: v for k, v in self.protocol.finals.items() if k != "trainer.max_epochs"}
        return [
            self._run(axes["model"], axes, cfg, {**settings, "seed": seed})
            for _, axes, cfg in self.control_settings
            for seed in ([int(axes["seed"])] if "seed" in axes else self.protocol.seeds)
        ]

    def _run(
        self, family: str, axes: Mapping[str, str], cfg: DictConfig, settings: Mapping[str, Any]
    ) -> Run:
        cfg = cfg.copy()
        if cfg.model.hidden is not None:
            cfg.model.hidden = self.protocol.width_of(self.part, family)
        for key, value in {**self.protocol.always, **settings}.items():
            try:
                OmegaConf.update(cfg, key, value)
            except OmegaConfBaseException as error:
                raise ConfigError(f"{key}={value}: no such setting") from error
        fingerprint = config_fingerprint(cfg)
        directory = self.directory / family / fingerprint
        completed = RunDirectory(directory).completed_metrics() is not None
        return Run(cfg, fingerprint, directory, [Place(family, axes)], completed, batch=family)


def digest(protocol: Protocol, part: str, settings: Sequence[Setting]) -> str:
    """Return a digest of a part of a protocol with all its settings and controls."""
    fixed = json.dumps(protocol.of_part(part), sort_keys=True)
    return study_protocol.digest((setting.cfg for setting in settings), fixed)


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


def has_diverged(run: Run) -> bool:
    """Return whether a run's loss became infinite or NaN: that is a result, not tried again."""
    metrics = run.metrics()
    return (
        metrics.get("config_fingerprint") == run.fingerprint
        and metrics["status"] == "failed"
        and str(metrics.get("error")).startswith(DIVERGED)
    )
