"""The YAML files of a run directory, which may come from anybody: read, never acted upon."""

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from implicit_em.base.errors import DamagedError, one_line
from implicit_em.config.fingerprint import config_fingerprint

LARGEST = 2**20
"""Bytes of a file."""
MOST_VALUES = 2_000
"""Keys among them; the usual configuration has some 200."""
DEEPEST = 32
"""Levels of mappings and lists in each other."""
MOST_REFERENCES = 8
"""References to other settings, each of which may double what is to be kept in memory."""

_REFERENCE = re.compile(r"\$\{[\w.]+\}")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_config(path: Path) -> DictConfig:
    """Return a saved configuration, resolved, and one that has a fingerprint.

    Raises:
        DamagedError: if the file holds no run's configuration, or one that asks for more than its
            own settings, as for a variable of the environment.

    """
    content = _read(path)
    if not isinstance(content, dict):
        raise DamagedError(f"{path}: no run's configuration: no mapping")
    shown = str(content)
    if "${" in _REFERENCE.sub("", shown) or shown.count("${") > MOST_REFERENCES:
        raise DamagedError(
            f"{path}: allowed are {MOST_REFERENCES} references ${{...}}, to its own settings alone"
        )
    try:
        config = OmegaConf.create(content)
        OmegaConf.resolve(config)
        config_fingerprint(config)
    except Exception as error:  # a damaged configuration may bring about any
        raise DamagedError(f"{path}: no run's configuration: {one_line(error)}") from error
    return config


def read_overrides(path: Path) -> list[str]:
    """Return a saved list of overrides, as they were typed.

    Raises:
        DamagedError: if the file holds something else.

    """
    overrides = _read(path)
    if not isinstance(overrides, list) or not all(isinstance(line, str) for line in overrides):
        raise DamagedError(f"{path}: no list of overrides")
    return overrides


def _read(path: Path) -> Any:
    """Return plain containers.

    No file of ours is large or deep, or has aliases, by which a few lines make more than memory
    holds.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        values = depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            values += isinstance(event, yaml.ScalarEvent)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if values > MOST_VALUES or depth > DEEPEST:
                raise ValueError(f"more than {MOST_VALUES:,} values or {DEEPEST} levels")
            if getattr(event, "anchor", None) is not None:
                raise ValueError("anchors and aliases are not read")
        return yaml.load(text, Loader=_Loader)
    except Exception as error:  # a damaged file may bring about any
        raise DamagedError(f"{path} cannot be read: {one_line(error)}") from error
