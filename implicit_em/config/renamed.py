"""Names of classes and functions that have moved since they were saved.

A package registers its table, from old names to new, as an entry point of the group
``implicit_em.renamed``. Saved configurations load the new name; fingerprints hash the old one.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

GROUP = "implicit_em.renamed"
TARGET = "_target_"


@cache
def _renamed() -> dict[str, str]:
    tables = [table.load() for table in entry_points(group=GROUP)]
    return {old: new for table in tables for old, new in table.items()}


@cache
def _earlier() -> dict[str, str]:
    return {new: old for old, new in _renamed().items()}


def with_new_names(settings: Any) -> Any:
    """Return plain settings whose every ``_target_`` has the name of today."""
    return _targets(settings, _renamed())


def with_earlier_names(settings: Any) -> Any:
    """Return plain settings whose every ``_target_`` has the name that it was first saved by."""
    return _targets(settings, _earlier())


def _targets(settings: Any, names: Mapping[str, str]) -> Any:
    if isinstance(settings, dict):
        return {
            key: names.get(value, value)
            if key == TARGET and isinstance(value, str)
            else _targets(value, names)
            for key, value in settings.items()
        }
    if isinstance(settings, list | tuple):
        return [_targets(item, names) for item in settings]
    return settings
