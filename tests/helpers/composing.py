"""Configurations, composed without a command; commands, run in this process."""

import importlib.metadata
import logging
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache, partial
from pathlib import Path
from typing import TextIO

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import (
    CachingConfigRepository,
    ConfigRepository,
    IConfigRepository,
)
from hydra._internal.defaults_list import DefaultsList, Overrides, create_defaults_list
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from helpers.paths import ROOT


def composed(config, *overrides, **options):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(config, overrides=list(overrides), **options)


def run_command(name: str, *arguments: str) -> int:
    """Run a command that Hydra composes, as in a process of its own; gives its code."""
    from implicit_em.sweeps.callback import CheckCallback

    handlers = list(logging.root.handlers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [])
        patch.setattr(CheckCallback, "sweep_directory", None)
        patch.setenv("HYDRA_FULL_ERROR", "")
        try:
            (found,) = importlib.metadata.entry_points(group="implicit_em.commands", name=name)
            return found.load()(arguments)
        finally:
            for handler in set(logging.root.handlers) - set(handlers):
                handler.close()
            logging.root.handlers = handlers  # Hydra's write to what a test captures
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None


@contextmanager
def once() -> Iterator[None]:
    """Parse each text, and read and merge the files of each choice, once in this process.

    Hydra does so for each command, and for each job of a sweep. Lightning asks all installed
    packages for callbacks, each time a Trainer is built. They stay what they are while tests run.
    """
    parse, read = OmegaConf.load, ConfigRepository.load_config
    merge, defaults_of = ConfigLoaderImpl._compose_config_from_defaults_list, create_defaults_list
    known = {}

    def kept(key, make):
        if key not in known:
            if (made := make()) is None:
                return None  # a plugin that is imported later may bring it
            try:
                known[key] = pickle.dumps(made)
            except pickle.PicklingError:  # of a plugin that was imported again
                return made
        return pickle.loads(known[key])

    def load(file: TextIO | Path | str) -> DictConfig:
        if isinstance(file, Path | str):
            return parse(file)
        text = file.read()
        file.seek(0)  # an error names the file
        return kept(text, partial(parse, file))

    def of(repo: IConfigRepository) -> tuple[str, ...] | None:
        """Return the places that a repository reads, and the launchers that are known.

        Return ``None`` if a test can write there.
        """
        places = tuple(source.full_path() for source in repo.get_sources())
        lasting = ("pkg://", "structured://", f"file://{ROOT}/")
        launchers = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
        lasts = all(place.startswith(lasting) for place in places)
        return (*places, *launchers) if lasts else None

    def load_config(repo: ConfigRepository, config_path: str) -> ConfigResult | None:
        places, make = of(repo), partial(read, repo, config_path)
        return kept((places, config_path), make) if places else make()

    def listed(repo: IConfigRepository, overrides_list: list[Override], **options) -> DefaultsList:
        given = Overrides(repo, overrides_list)
        chosen = (given.override_choices, given.append_group_defaults, given.deletions)
        places = of(repo)
        make = partial(defaults_of, repo, overrides_list=overrides_list, **options)
        found = kept((places, *options.values(), repr(chosen)), make) if places else make()
        found.config_overrides = given.config_overrides
        return found

    def merged(loader, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        places, make = of(repo), partial(merge, loader, defaults, repo)
        return kept((places, repr(defaults)), make) if places else make()

    def start(caching: CachingConfigRepository, delegate: ConfigRepository) -> None:
        caching.delegate, caching.cache = copy(delegate), {}  # Hydra copies all sources

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load)
        patch.setattr(ConfigRepository, "load_config", load_config)
        patch.setattr(CachingConfigRepository, "__init__", start)
        patch.setattr("hydra._internal.config_loader_impl.create_defaults_list", listed)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merged)
        # Hydra composes everything once more before, for a mode that no file of ours sets.
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        found = cache(importlib.metadata.entry_points)
        patch.setattr("lightning_fabric.utilities.registry.entry_points", found)
        yield
