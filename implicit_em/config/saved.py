"""Safe reading of YAML files: nothing that they name is built or run."""

import re
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from implicit_em.base.errors import DamagedError, raising
from implicit_em.base.files import read_bytes
from implicit_em.config.fingerprint import config_fingerprint

LARGEST = 2**20
"""Largest size of a file in bytes."""
MOST_VALUES = 2_000
"""Largest number of values in a file: OmegaConf takes 0.25 ms and 1 kB for each."""
MOST_EVENTS = 2 * MOST_VALUES + 4
"""Largest number of events: at most two for each value, two for the document, two for the file."""
DEEPEST = 50
"""Largest depth of nested values."""
MOST_REFERENCES = 8
"""Largest number of references to other settings: each may double the number of values."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_REFERENCE = re.compile(r"\$\{[\w.]+\}")


def read_config(path: Path) -> DictConfig:
    """Return a saved configuration, resolved, or raise ``DamagedError``.

    Only references to the file's own settings are allowed: a resolver could read the environment
    or have side effects.
    """
    content = read_yaml(path)
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
    """Return the content of a YAML file, or raise ``DamagedError`` if it is damaged or too large.

    A value counts as often as aliases repeat it: a few lines of aliases can fill the memory.
    """
    text = read_bytes(path, LARGEST)
    # For example a ValueError from a number with thousands of digits.
    with raising(DamagedError, f"{path} cannot be read", Exception):
        events = islice(yaml.parse(text, Loader=_Loader), MOST_EVENTS + 1)
        if len([*events]) > MOST_EVENTS or _count(yaml.compose(text, _Loader), {}) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        return yaml.load(text, Loader=_Loader)


def _count(node: yaml.Node | None, known: dict[int, int], depth: int = 0) -> int:
    """Return the number of values in a node, or raise ``ValueError`` if they nest too deep."""
    if depth > DEEPEST:  # as is a value that holds itself
        raise ValueError(f"nested more than {DEEPEST} deep")
    if id(node) not in known:
        parts: Any = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = chain(*parts) if isinstance(node, yaml.MappingNode) else parts
        known[id(node)] = 1 + sum(_count(part, known, depth + 1) for part in parts)
    return known[id(node)]
