"""Explanations of the mistakes for which Hydra cannot compose a configuration."""

import difflib
import re
from collections.abc import Iterable, Sequence

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
from implicit_em.config.fingerprint import nodes

MOST_LISTED = 12
"""Largest number of allowed names that are listed beside a hint."""
LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm", "submitit_slurm_stacked", "ray")
"""Launchers that the extra ``cluster`` installs."""


def explain(error: Exception, overrides: Sequence[str], loader: ConfigLoader, config: str) -> str:
    """Return one line that explains why Hydra could not compose the primary config ``config``."""
    message = str(error).strip().splitlines()[0]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher" and choice in LAUNCHERS:
            override = next((line for line in overrides if line.startswith(f"{group}=")), group)
            return f'{override}: its launcher is not installed; pip install -e ".[cluster]"'
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
        override = next((line for line in overrides if line.lstrip("+~").startswith(key)), key)
        return f"{override}: no such key; {nearest(key, _keys(loader, config, overrides))}"
    return _no_option(overrides, loader, config) or message


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return a hint at the allowed name that is closest, and the names on the same level."""
    allowed = list(allowed)
    close = difflib.get_close_matches(name, allowed, n=1)
    parent = close[0].rpartition(".")[0] if close else name.rpartition(".")[0]
    beside = [key for key in allowed if key.rpartition(".")[0] == parent]
    listed = ", ".join(beside or sorted({key.partition(".")[0] for key in allowed}))
    if not close:
        return f"allowed: {listed}"
    hint = f"did you mean {close[0]}?"
    return hint if len(beside) > MOST_LISTED else f"{hint} allowed: {listed}"


def _no_option(overrides: Sequence[str], loader: ConfigLoader, config: str) -> str | None:
    """Explain an override that assigns a number to a config group, such as ``lr=1e-3``."""
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
    """Return all keys of the config with the chosen groups, or else of the default config."""
    choices = [line for line in overrides if loader.get_group_options(line.partition("=")[0])]
    for attempt in (choices, []):
        try:
            cfg = loader.load_configuration(config, attempt, RunMode.RUN)
        except Exception:  # the mistake is in a choice
            continue
        content = OmegaConf.to_container(cfg)
        assert isinstance(content, dict)
        content.pop("hydra", None)
        return [key for key, _ in nodes(content)]
    return []
