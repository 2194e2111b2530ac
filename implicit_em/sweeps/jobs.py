"""The jobs of a sweep: their overrides and their configurations."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cache

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_em.config.composing import typed


def enumerate_jobs(config: DictConfig, loader: ConfigLoader) -> Iterator[list[str]]:
    """Yield the overrides of each job; ``config`` includes Hydra's own node."""
    for batch in BasicSweeper.split_arguments(_typed(config, loader), max_batch_size=None):
        yield from batch


def fixed_keys(config: DictConfig, loader: ConfigLoader) -> set[str]:
    """Return the keys to which a sweep gives one value in all jobs."""
    return {o.get_key_element() for o in _typed(config, loader) if not o.is_sweep_override()}


def _typed(config: DictConfig, loader: ConfigLoader) -> list[Override]:
    """Return the overrides of a sweep, and its ``hydra.sweeper.params``."""
    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=loader)
    return parser.parse_overrides([*lines, *typed(config)])


class JobComposer:
    """Composes the jobs of a sweep, from its configuration with Hydra's own node.

    Hydra takes tens of milliseconds to compose a configuration, so this class has it compose once
    for each choice of groups. The values of the other overrides are then set directly.
    """

    def __init__(self, sweep: DictConfig, loader: ConfigLoader) -> None:
        self._sweep, self._loader = sweep, loader
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        repository = loader.repository  # type: ignore[attr-defined]
        # The loader's own function copies the repository in each call.
        self._options = cache(repository.get_group_options)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration of a job, or raise Hydra's exceptions."""
        parsed = self._parse(overrides)
        values = [override for override in parsed if self._sets_a_value(override)]
        rest = self._rest(parsed)
        if rest not in self._composed:
            self._composed[rest] = self._by_hydra(rest)
        job = self._composed[rest].copy()
        try:
            for override in values:
                OmegaConf.update(job, override.key_or_group, override.value())
        except OmegaConfBaseException:  # Hydra raises the error that can be explained
            return self._by_hydra(overrides)
        self._note(job, [override for override in parsed if not override.is_hydra_override()])
        return job

    def _parse(self, overrides: Sequence[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self._loader).parse_overrides(list(overrides))

    def _rest(self, parsed: Sequence[Override]) -> tuple[str, ...]:
        """Return the overrides that Hydra must compose: all that do more than set a value."""
        return tuple(str(o.input_line) for o in parsed if not self._sets_a_value(o))

    def _by_hydra(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self._sweep, list(overrides))

    def _note(self, job: DictConfig, task: list[Override]) -> None:
        """Note a job's overrides in Hydra's own node."""
        job.hydra.overrides.task = [override.input_line for override in task]
        names = job.hydra.job.config.override_dirname
        job.hydra.job.override_dirname = get_overrides_dirname(task, **names)

    def _sets_a_value(self, override: Override) -> bool:
        changes_keys = override.is_add() or override.is_force_add() or override.is_delete()
        key = override.key_or_group
        in_group = "/" in key or self._options(key)
        return not (changes_keys or override.package or in_group or key.startswith("hydra."))


def composing_quickly(context: HydraContext, sweep: DictConfig) -> HydraContext:
    """Return a context whose loader composes the jobs of a sweep by a ``JobComposer``."""
    composer, loader = JobComposer(sweep, context.config_loader), copy(context.config_loader)
    vars(loader)["load_sweep_config"] = lambda _, overrides: composer.compose(overrides)
    return replace(context, config_loader=loader)


class TaskComposer(JobComposer):
    """Composes jobs without Hydra's own node, which is the larger part to copy.

    The sweep is already composed once. A job that chooses no other groups differs from it in values
    alone, so it starts from a copy.
    """

    def __init__(self, sweep: DictConfig, loader: ConfigLoader) -> None:
        super().__init__(sweep, loader)
        own = self._rest(self._parse(typed(sweep)))
        self._composed[own] = _without_hydra(sweep)

    def _by_hydra(self, overrides: Sequence[str]) -> DictConfig:
        return _without_hydra(super()._by_hydra(overrides))

    def _note(self, job: DictConfig, task: list[Override]) -> None:
        """Note nothing: there is no node for it."""


def _without_hydra(cfg: DictConfig) -> DictConfig:
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    OmegaConf.set_struct(task, True)  # as Hydra does
    return task
