"""Safe reading of a run directory's YAML files: nothing that they name is built or run."""

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from implicit_em.base.errors import DamagedError, raising
from implicit_em.config.fingerprint import config_fingerprint

LARGEST = 2**20
"""Largest size of a file in bytes."""
MOST_VALUES = 2_000
"""Largest number of values in a file: OmegaConf takes 0.25 ms and 1 kB for each."""
MOST_REFERENCES = 8
"""Largest number of references to other settings: each may double the number of values."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_REFERENCE = re.compile(r"\$\{[\w.]+\}")


def read_config(path: Path) -> DictConfig:
    """Return a saved configuration, resolved, or raise ``DamagedError``.

    Only references to the file's own settings are allowed: a resolver could read the environment
    or have side effects.
    """
    content = _read(path)
    if not isinstance(content, dict):
        raise DamagedError(f"{path}: no run's configuration: no mapping")
    shown = str(content)
    if "${" in _REFERENCE.sub("", shown) or shown.count("${") > MOST_REFERENCES:
        raise DamagedError(
            f"{path}: allowed are {MOST_REFERENCES} references ${{...}}, to its own settings alone"
        )
    # Damaged content may raise anything.
    with raising(DamagedError, f"{path}: no run's configuration", Exception):
        config = OmegaConf.create(content)
        OmegaConf.resolve(config)
        config_fingerprint(config)  # every run has one
    return config


def read_overrides(path: Path) -> list[str]:
    """Return a saved list of overrides, or raise ``DamagedError``."""
    overrides = _read(path)
    if not isinstance(overrides, list) or not all(isinstance(line, str) for line in overrides):
        raise DamagedError(f"{path}: no list of overrides")
    return overrides


def read_choices(path: Path) -> dict[str, str]:
    """Return the chosen option of each config group from Hydra's saved settings, if it has any."""
    try:
        content: Any = _read(path)
    except DamagedError:
        return {}
    for key in ("hydra", "runtime", "choices"):
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def _read(path: Path) -> Any:
    # For example a RecursionError from deeply nested content.
    with raising(DamagedError, f"{path} cannot be read", Exception):
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        events = yaml.parse(text, Loader=_Loader)
        nodes = (event for event in events if isinstance(event, yaml.NodeEvent))
        for number, node in enumerate(nodes, 1):
            if number > MOST_VALUES:
                raise ValueError(f"more than {MOST_VALUES:,} values")
            if node.anchor is not None:  # a few lines of aliases can fill the memory
                raise ValueError("anchors and aliases are not read")
        return yaml.load(text, Loader=_Loader)
