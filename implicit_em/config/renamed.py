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
def _names(earlier: bool) -> dict[str, str]:
    moved = [pair for table in entry_points(group=GROUP) for pair in table.load().items()]
    return {new: old for old, new in moved} if earlier else dict(moved)


def with_new_names(settings: Any) -> Any:
    """Return plain settings in which what has moved has its name of today."""
    return _renaming(settings, _names(earlier=False))


def with_earlier_names(settings: Any) -> Any:
    """Return plain settings in which what has moved has the name that it was first saved by."""
    return _renaming(settings, _names(earlier=True))


def _renaming(settings: Any, names: Mapping[str, str]) -> Any:
    if isinstance(settings, dict):
        return {key: _renaming(value, names) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [_renaming(item, names) for item in settings]
    return names.get(settings, settings) if isinstance(settings, str) else settings
