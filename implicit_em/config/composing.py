"""Configurations composed outside of Hydra's command line; why Hydra cannot compose one."""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, errors, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from implicit_em.base.errors import ConfigError, nearest, one_line
from implicit_em.base.settings import nodes
from implicit_em.config import CONF

LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm", "submitit_slurm_stacked", "ray")
"""Launchers that the extra ``cluster`` installs."""

REFUSALS = (errors.HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError)
"""Errors that Hydra raises for what was typed: ``YAMLError`` for a file that is no YAML,
``ValueError`` for a number of 5,000 digits or in place of a group's option, ``RecursionError`` for
thousands of brackets."""


def composed(name: str, overrides: Sequence[str], conf: Path = CONF) -> DictConfig:
    """Return a primary configuration of a folder with overrides, such as ``train``.

    Raises:
        ConfigError: if it cannot be composed; the message says why.
    """
    with composing(name, overrides, conf):
        return compose(name, overrides=list(overrides))


@contextmanager
def composing(name: str, overrides: Sequence[str], conf: Path) -> Iterator[ConfigLoader]:
    """Let Hydra compose from a folder, and yield its loader; raise as ``composed`` does."""
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            yield loader
        except ConfigError:
            raise
        except REFUSALS as error:
            raise ConfigError(explain(error, overrides, loader, name)) from error


def key_of(override: str) -> str:
    """Return the key or the group that an override sets: ``lr.value`` for ``+lr.value=1``."""
    return re.split("[@=]", override.lstrip("+~"))[0]


def typed(config: DictConfig) -> list[str]:
    """Return the overrides as they were typed, because resolving them may fail."""
    overrides: Any = OmegaConf.to_container(config.hydra.overrides.task)
    return overrides


def unresolved(error: OmegaConfBaseException) -> str:
    """Return one line that names the key whose value cannot be resolved."""
    return f"{error.full_key}: {str(error).strip().splitlines()[0]}"


def shadowed(config: DictConfig) -> str | None:
    """Return why a file of ``--config-dir`` would not be read, or ``None``.

    Hydra reads the project's file where both have one name.
    """
    sources = [source for source in config.hydra.runtime.config_sources if source.schema == "file"]
    theirs = [Path(source.path) for source in sources if source.provider == "command-line"]
    ours = [Path(source.path) for source in sources if source.provider != "command-line"]
    for folder in theirs:
        for file in folder.rglob("*.yaml"):
            name = file.relative_to(folder)
            if any((own / name).exists() and not (own / name).samefile(file) for own in ours):
                return f"{file}: the project has {name}; choose another name"
    return None


def explain(error: Exception, overrides: Sequence[str], loader: ConfigLoader, config: str) -> str:
    """Return one line that explains why Hydra could not compose the primary config ``config``."""
    message = str(error).strip().splitlines()[0]
    if isinstance(error, RecursionError):
        longest = max(overrides, key=len, default="")
        return f"brackets, or a file's keys, are too deep in one another: {longest:.60}"
    if isinstance(error, errors.MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher" and choice in LAUNCHERS:
            override = next((line for line in overrides if line.startswith(f"{group}=")), group)
            return f'{override}: its launcher is not installed; pip install -e ".[cluster]"'
        if options := error.options or loader.get_group_options(group):
            return f"{group}={choice}: no such option; {nearest(choice, options)}"
    if isinstance(error, errors.OverrideParseException):
        key, _, value = error.override.partition("=")
        if "=" in value:  # e.g. the name of a job's directory
            return f"{error.override}: quote what has = or , in it: \"{key}='{value}'\""
        return f"{error.override}: {message}; write key=value"
    if several := re.match(r"Ambiguous value for argument '(.*)'", message):
        return f"{several[1]}: several values make a sweep; allowed with -m, or one of them"
    if isinstance(error, errors.InstantiationException | YAMLError):
        return one_line(error)
    if unknown := re.match(r"Could not override '(.*)'", message):
        key = key_of(unknown[1])
        typed = {key_of(line): line for line in overrides}
        override = typed.get(key, key)
        return f"{override}: no such key; {_beside(key, loader, config, overrides)}"
    if "does not support sweep type" in message:
        elsewhere = "hydra.sweeper.params=interval(...)"
        line = next((line for line in overrides if "interval(" in line), elsewhere)
        key, _, values = line.partition("=")
        return f"{key}={values}: list the values, as in {key}=1,2,3"
    return _no_option(overrides, loader, config) or message


def _beside(key: str, loader: ConfigLoader, config: str, overrides: Sequence[str]) -> str:
    """Return a hint for an unknown key: options of its group that have it, or the closest key."""
    if options := _options_with(key, loader):
        return f"allowed with {', '.join(options)}"
    parts = key.split(".")
    keys = [
        other
        for other in _keys(loader, config, overrides)
        if parts[0] == "hydra" or other.partition(".")[0] != "hydra"
    ]
    known = max(n for n in range(len(parts)) if n == 0 or ".".join(parts[:n]) in keys)
    parent = ".".join(parts[:known])
    siblings = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == parent}
    if close := difflib.get_close_matches(parts[known], siblings, n=1):
        return nearest(siblings[close[0]], siblings.values())
    elsewhere = {k.rpartition(".")[2]: k for k in keys}
    if len(parts) == 1 and (close := difflib.get_close_matches(key, elsewhere, n=1)):
        return f"did you mean {elsewhere[close[0]]}?"
    return f"allowed: {', '.join(siblings.values())}"


def _options_with(key: str, loader: ConfigLoader) -> list[str]:
    """Return the options of a key's config group whose files have the key, as they are typed."""
    parts = key.split(".")
    group = "/".join(parts[: 2 if parts[0] == "hydra" else 1])
    found = []
    for option in loader.get_group_options(group) if group else ():
        file = loader.repository.load_config(f"{group}/{option}")  # type: ignore[attr-defined]
        is_global = file.header.get("package") == "_global_"
        prefix = "" if is_global else f"{group.replace('/', '.')}."
        content: Any = OmegaConf.to_container(file.config)
        if key in dict(nodes(content, prefix)):
            found.append(f"{group}={option}")
    return found


def _no_option(overrides: Sequence[str], loader: ConfigLoader, config: str) -> str | None:
    """Explain an override that assigns a number to a config group, such as ``lr=1e-3``."""
    for line in overrides:
        try:
            (override,) = OverridesParser.create(config_loader=loader).parse_overrides([line])
        except REFUSALS:
            continue
        group = override.key_or_group
        options = loader.get_group_options(group)
        if options and not isinstance(override.value(), str | list):
            hint = ""
            if f"{group}.value" in _keys(loader, config, []):
                hint = f"for a number write {group}.value={override.get_value_string()}; "
            allowed = ", ".join(options)
            return f"{line}: {group} takes the name of an option; {hint}allowed: {allowed}"
    return None


def _keys(loader: ConfigLoader, config: str, overrides: Sequence[str]) -> list[str]:
    """Return all keys of the config with the chosen groups, or else of the default config."""
    choices = [line for line in overrides if loader.get_group_options(line.partition("=")[0])]
    for attempt in (choices, []):
        try:
            cfg = loader.load_configuration(config, attempt, RunMode.RUN)
        except Exception:  # the mistake is in a choice
            continue
        content = OmegaConf.to_container(cfg)
        assert isinstance(content, dict)
        return [key for key, _ in nodes(content)]
    return []
