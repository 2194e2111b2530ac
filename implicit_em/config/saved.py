"""Safe reading of a run's YAML files: nothing that they name is built or run."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from implicit_em.base.errors import DamagedError, raising
from implicit_em.base.files import read_bytes
from implicit_em.config.fingerprint import config_fingerprint

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_config(path: Path) -> DictConfig:
    """Return a saved configuration, or raise ``DamagedError``.

    A run saves values alone. References are refused, because a resolver could read the environment
    or have side effects.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DamagedError(f"{path}: no run's configuration: no mapping")
    if "${" in str(content):
        raise DamagedError(f"{path}: no run's configuration: holds references ${{...}}")
    # Damaged content may raise anything.
    with raising(DamagedError, f"{path}: no run's configuration", Exception):
        config = OmegaConf.create(content)
        config_fingerprint(config)  # every run has one
    return config


def read_overrides(path: Path) -> list[str]:
    """Return a saved list of overrides, or raise ``DamagedError``."""
    overrides = read_yaml(path)
    if not isinstance(overrides, list) or not all(isinstance(line, str) for line in overrides):
        raise DamagedError(f"{path}: no list of overrides")
    return overrides


def read_choices(path: Path) -> dict[str, str]:
    """Return the chosen option of each config group from Hydra's saved settings, if it has any."""
    try:
        content: Any = read_yaml(path)
    except DamagedError:
        return {}
    for key in ("hydra", "runtime", "choices"):
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file, or raise ``DamagedError``."""
    text = read_bytes(path)
    # For example a ValueError from a number with thousands of digits.
    with raising(DamagedError, f"{path} cannot be read", Exception):
        return yaml.load(text, Loader=_Loader)
