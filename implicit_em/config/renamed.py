"""Names of classes and functions that have moved since they were saved.

A package registers its table, from old names to new, as an entry point of the group
``implicit_em.renamed``. Saved configurations load the new name; fingerprints hash the old one.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

GROUP = "implicit_em.renamed"


@cache
def _renamed() -> dict[str, str]:
    tables = [table.load() for table in entry_points(group=GROUP)]
    return {old: new for table in tables for old, new in table.items()}


@cache
def _earlier() -> dict[str, str]:
    return {new: old for old, new in _renamed().items()}


def with_new_names(settings: Any) -> Any:
    """Return plain settings in which what has moved has its name of today."""
    return _renaming(settings, _renamed())


def with_earlier_names(settings: Any) -> Any:
    """Return plain settings in which what has moved has the name that it was first saved by."""
    return _renaming(settings, _earlier())


def _renaming(settings: Any, names: Mapping[str, str]) -> Any:
    if isinstance(settings, dict):
        return {key: _renaming(value, names) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [_renaming(item, names) for item in settings]
    return names.get(settings, settings) if isinstance(settings, str) else settings
