"""The runs of the comparison: grids, then chosen settings over seeds, and controls."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_em.base.errors import ConfigError
from implicit_em.compare.protocol import DERIVED, Protocol
from implicit_em.config.check import check
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.config.spec import RunSpec
from implicit_em.studies.runs import Run, compose_sweeps, on_any_device
from implicit_em.training.directory import RunDirectory

DIVERGED = "the loss was not finite"


class Setting(NamedTuple):
    """A setting of a family's grid, as composed, or a control.

    Args:
        family: its name.
        axes: values by key.
        cfg: the configuration, without what a stage sets.

    """

    family: str
    axes: dict[str, str]
    cfg: DictConfig


def compose_settings(
    names: Sequence[str],
    dataset: str,
    conf: Path,
    overrides: Sequence[str] = (),
    folder: str = "compare",
) -> list[Setting]:
    """Compose all settings of families, or of knobs.

    Args:
        names: of the files.
        dataset: option of the group ``data``.
        conf: the configuration files.
        overrides: settings of all runs, in Hydra's notation, beside those of the protocol.
        folder: of ``conf/experiment``, in which the files are.

    Raises:
        ConfigError: if there is none of a name, or one cannot be composed.

    """
    allowed = sorted(path.stem for path in (conf / "experiment" / folder).glob("*.yaml"))
    if unknown := [name for name in names if name not in allowed]:
        raise ConfigError(f"{unknown[0]}: not in {folder}; allowed: {', '.join(allowed)}")
    sweeps = {f"{folder}/{name}": name for name in names}
    composed = compose_sweeps(list(sweeps), conf, [f"data={dataset}", *overrides])
    return [Setting(sweeps[sweep], axes, cfg) for sweep, cfg, axes in composed]


class Stages:
    """Makes runs of settings, as the protocol has them; one fingerprint has one directory.

    Args:
        protocol: of the comparison.
        part: one of the protocol's.
        directory: of all runs of a data set.
        settings: of the families' grids.
        controls: those that are measured as they start.

    """

    def __init__(
        self,
        protocol: Protocol,
        part: str,
        directory: Path,
        settings: Sequence[Setting],
        controls: Sequence[Setting],
    ) -> None:
        self.protocol = protocol
        self.part = part
        self.directory = directory
        self.settings = settings
        self.control_settings = controls

    def grids(self) -> list[Run]:
        """Return the runs of all families' grids, each setting once a family."""
        return [run for _, run in self._tuned]

    @cached_property
    def _tuned(self) -> list[tuple[Setting, Run]]:
        each = [(setting, self._run(*setting, self.protocol.tuning)) for setting in self.settings]
        return list({(one.family, run.fingerprint): (one, run) for one, run in each}.values())

    def knobs(self) -> list[Run]:
        """Return the runs of all settings, as those of the derived grid, but once a seed."""
        runs: dict[str, Run] = {}
        for knob, axes, cfg in self.settings:
            for seed in self.protocol.seeds:
                run = self._run(DERIVED, axes, cfg, {**self.protocol.tuning, "seed": seed})
                first = runs.setdefault(run.fingerprint, run)
                places = first.places if first is not run else []
                first.places[:] = [*places, (knob, dict(axes))]
        return list(runs.values())

    def finals(self, chosen: pd.DataFrame) -> list[Run]:
        """Return the runs of chosen settings, from ``selection.select``, once a seed."""
        picked = set(zip(chosen["family"], chosen["run"], strict=True))
        return [
            self._run(*setting, {**self.protocol.finals, "seed": seed})
            for setting, run in self._tuned
            if (setting.family, run.fingerprint) in picked
            for seed in self.protocol.seeds
        ]

    def possible_finals(self) -> list[Run]:
        """Return a final of each family: what is wrong with one's settings is with those of all."""
        first = {setting.family: setting for setting in reversed(self.settings)}
        settings = {**self.protocol.finals, "seed": self.protocol.seeds[0]}
        return [self._run(*setting, settings) for setting in first.values()]

    def controls(self) -> list[Run]:
        """Return the runs of the controls, once a seed where they draw random numbers."""
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
            _set(cfg, key, value)
        fingerprint = config_fingerprint(cfg)
        directory = self.directory / family / fingerprint
        done = RunDirectory(directory).completed_metrics() is not None
        return Run(cfg, fingerprint, directory, done, [(family, dict(axes))])


def _set(cfg: DictConfig, key: str, value: Any) -> None:
    try:
        OmegaConf.update(cfg, key, value)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}={value}: no such setting") from error


def check_all(runs: Sequence[Run]) -> None:
    """Refuse runs that could not be trained.

    Raises:
        ConfigError: with the first thing found.

    """
    for run in runs:
        _check(run)


def _check(run: Run) -> None:
    try:
        check(RunSpec.of(run.cfg))
    except ConfigError as error:
        raise ConfigError(f"{error} ({run.places[0][0]}, {settings_of(run)})") from error


def digest(protocol: Protocol, part: str, settings: Sequence[Setting]) -> str:
    """Return 16 hexadecimal digits over a part of a protocol and what it runs, on any device.

    Args:
        protocol: of the comparison.
        part: its name.
        settings: of the grids, and the controls.

    """
    fixed = json.dumps(protocol.of_part(part), sort_keys=True)
    each = sorted(on_any_device(setting.cfg) for setting in settings)
    return hashlib.sha256(",".join([fixed, *each]).encode()).hexdigest()[:16]


def settings_of(run: Run) -> str:
    """Return a run's values of its family's axes: ``k=3, lr=0.001``; of a group, its option."""
    return describe(run.cfg, run.places[0][1])


def describe(cfg: DictConfig, axes: Mapping[str, str]) -> str:
    """Return what a configuration has for axes, whose values are those in Hydra's notation."""
    parts = []
    for key, option in axes.items():
        value = OmegaConf.select(cfg, key.lstrip("+"))
        value = option if OmegaConf.is_config(value) else value
        name = key.removesuffix(".value").removesuffix(".weight").rpartition(".")[2]
        parts.append(f"{name}={value:g}" if isinstance(value, int | float) else f"{name}={value}")
    return ", ".join(parts)


def training_of(runs: Sequence[Run]) -> str:
    """Return optimizers and schedules of runs, in words."""
    found = {(run.cfg.optimizer._target_, _target_of(run.cfg.lr.schedule)) for run in runs}
    return "; ".join(
        f"{optimizer.rpartition('.')[2]}, {schedule or 'a constant rate'}"
        for optimizer, schedule in sorted(found)
    )


def _target_of(node: DictConfig | None) -> str:
    return "" if node is None else str(node._target_).rpartition(".")[2]


def named(runs: Sequence[Run]) -> pd.DataFrame:
    """Return ``family``, ``settings`` and ``seed`` of runs."""
    rows = [(run.places[0][0], settings_of(run), run.cfg.seed) for run in runs]
    return pd.DataFrame(rows, columns=["family", "settings", "seed"])


def has_diverged(run: Run) -> bool:
    """Return whether a run ended as its loss was not finite: a result, which is not tried again."""
    metrics = RunDirectory(run.directory).read_metrics() or {}
    return (
        metrics.get("config_fingerprint") == run.fingerprint
        and metrics["status"] == "failed"
        and str(metrics.get("error")).startswith(DIVERGED)
    )
