"""Explain what was mistyped if Hydra cannot compose a configuration."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import OmegaConf

from implicit_em.base.errors import one_line

LISTED_BESIDE_A_HINT = 12
"""Most allowed names that are listed beside a hint."""
LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm", "submitit_slurm_stacked", "ray")
"""Launchers that the extra ``cluster`` installs."""


def explain(error: Exception, overrides: Sequence[str], loader: ConfigLoader, config: str) -> str:
    """Return one line that explains why a configuration cannot be composed.

    Args:
        error: the exception that Hydra raised.
        overrides: the overrides as they were typed.
        loader: Hydra's loader of the configuration files.
        config: name of the primary configuration file.

    """
    message = str(error).strip().splitlines()[0]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher" and choice in LAUNCHERS:
            typed = next((line for line in overrides if line.startswith(f"{group}=")), group)
            return f'{typed}: its launcher is not installed; pip install -e ".[cluster]"'
        if error.options:
            return f"{group}={choice}: no such option; {nearest(choice, error.options)}"
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        if "=" in value:  # e.g. the name of a job's directory
            return f"{error.override}: quote what has = or , in it: \"{key}='{value}'\""
        return f"{error.override}: {message}; write key=value"
    if several := re.match(r"Ambiguous value for argument '(.*)'", message):
        return f"{several[1]}: several values make a sweep; allowed with -m, or one of them"
    if isinstance(error, InstantiationException):
        return one_line(error)
    if unknown := re.match(r"Could not override '(.*)'", message):
        key = unknown[1].partition("@")[0]
        typed = next((line for line in overrides if line.lstrip("+~").startswith(key)), key)
        return f"{typed}: no such key; {nearest(key, _keys(loader, config, overrides))}"
    return _no_option(overrides, loader, config) or message


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return a hint at the closest name, with the names beside it, or all names at the top."""
    allowed = list(allowed)
    close = difflib.get_close_matches(name, allowed, n=1)
    parent = close[0].rpartition(".")[0] if close else name.rpartition(".")[0]
    beside = [key for key in allowed if key.rpartition(".")[0] == parent]
    listed = ", ".join(beside or sorted({key.partition(".")[0] for key in allowed}))
    if not close:
        return f"allowed: {listed}"
    hint = f"did you mean {close[0]}?"
    return hint if len(beside) > LISTED_BESIDE_A_HINT else f"{hint} allowed: {listed}"


def _no_option(overrides: Sequence[str], loader: ConfigLoader, config: str) -> str | None:
    """Return the explanation if a group was given a number, as in ``lr=1e-3``."""
    for line in overrides:
        try:
            (override,) = OverridesParser.create(config_loader=loader).parse_overrides([line])
        except HydraException:
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
    """Return all keys of the configuration with the chosen groups, else of the default one."""
    choices = [line for line in overrides if loader.get_group_options(line.partition("=")[0])]
    for attempt in (choices, []):
        try:
            cfg = loader.load_configuration(config, attempt, RunMode.RUN)
        except Exception:  # a choice is the mistake: the defaults will do
            continue
        content = OmegaConf.to_container(cfg)
        assert isinstance(content, dict)
        content.pop("hydra", None)
        return list(_flat_keys(content))
    return []


def _flat_keys(value: Mapping[Any, Any], prefix: str = "") -> Iterable[str]:
    for name, item in value.items():
        key = f"{prefix}{name}"
        yield key
        if isinstance(item, Mapping):
            yield from _flat_keys(item, f"{key}.")
