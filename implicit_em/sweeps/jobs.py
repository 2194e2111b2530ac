"""The jobs of a sweep: their overrides, their configurations, and the list of them on disk."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_em.base.errors import DamagedError
from implicit_em.base.files import read_json, write_json
from implicit_em.sweeps import launchers

log = logging.getLogger(__name__)

JOBS = "jobs.json"


def enumerate_jobs(config: DictConfig, loader: ConfigLoader) -> Iterator[list[str]]:
    """Yield the overrides of each job; ``config`` includes Hydra's own node.

    If the sweeper chooses jobs by earlier results, one example is yielded, with the first values.
    """
    parser = OverridesParser.create(config_loader=loader)
    if launchers.optimises(config):
        yield [*map(_example, parser.parse_overrides(config.hydra.overrides.task))]
        return
    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = parser.parse_overrides([*lines, *config.hydra.overrides.task])
    for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None):
        yield from batch


def _example(override: Override) -> str:
    """Return an override with the first of its values."""
    if not override.is_sweep_override():
        return str(override.input_line)
    values: Any = override.value()
    is_interval = isinstance(values, IntervalSweep)
    if is_interval:
        first = values.start if values.start <= values.end else None
    else:
        first = next(override.sweep_iterator(Transformer.encode), None)
    if first is None:
        raise HydraException(f"{override.input_line}: holds no value; the smaller end comes first")
    return f"{override.get_key_element()}={first}"


class JobComposer:
    """Composes the jobs of a sweep, from its configuration with Hydra's own node.

    Hydra takes tens of milliseconds to compose a configuration, so it composes once for each choice
    of groups. The values of the other overrides are then set directly.
    """

    def __init__(self, sweep: DictConfig, loader: ConfigLoader) -> None:
        self._sweep, self._loader = sweep, loader
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._options = cache(loader.get_group_options)  # which looks through all folders

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration of a job with Hydra's own node, or raise its exceptions."""
        parser = OverridesParser.create(config_loader=self._loader)
        parsed = parser.parse_overrides(list(overrides))
        values = [override for override in parsed if self._sets_a_value(override)]
        rest = tuple(str(o.input_line) for o in parsed if o not in values)
        if rest not in self._composed:
            self._composed[rest] = self._loader.load_sweep_config(self._sweep, list(rest))
        job = self._composed[rest].copy()
        try:
            for override in values:
                OmegaConf.update(job, override.key_or_group, override.value())
        except OmegaConfBaseException:  # Hydra raises the error that can be explained
            return self._loader.load_sweep_config(self._sweep, list(overrides))
        task = [override for override in parsed if not override.is_hydra_override()]
        job.hydra.overrides.task = [override.input_line for override in task]
        names = job.hydra.job.config.override_dirname
        job.hydra.job.override_dirname = get_overrides_dirname(task, **names)
        return job

    def _sets_a_value(self, override: Override) -> bool:
        changes_keys = override.is_add() or override.is_force_add() or override.is_delete()
        key = override.key_or_group
        in_group = "/" in key or self._options(key)
        return not (changes_keys or override.package or in_group or key.startswith("hydra."))


def note_jobs(directory: Path, jobs: Mapping[str, str]) -> None:
    """Add jobs, given as their overrides by directory name, to the list in a sweep's directory."""
    write_json(directory / JOBS, {**noted_jobs(directory), **jobs})


def noted_jobs(directory: Path) -> dict[str, str]:
    """Return the valid entries of a sweep's list of jobs, which may be missing or damaged."""
    try:
        jobs = read_json(directory / JOBS)
        if not isinstance(jobs, dict):
            raise DamagedError(f"{directory / JOBS}: no list of jobs")
    except DamagedError as error:
        log.warning("%s; jobs that never started are not known", error)
        return {}
    except OSError:
        return {}
    return {name: job for name, job in jobs.items() if isinstance(job, str) and _is_a_name(name)}


def _is_a_name(name: str) -> bool:
    return name not in ("", "..") and Path(name).name == name
