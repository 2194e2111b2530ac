"""Nested settings: their dotted keys, and where two of them differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST_SHOWN = 3
"""Largest number of differences that a message names."""
Difference = tuple[str, Any, Any]
"""A dotted key, its value there, and its value here; ``None`` where it is missing."""


def nodes(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every setting and group of settings."""
    for name, value in settings.items():
        yield f"{prefix}{name}", value
        if isinstance(value, Mapping):
            yield from nodes(value, f"{prefix}{name}.")


def leaves(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the value of every setting that is no group, by its dotted key."""
    return {key: value for key, value in nodes(settings) if not isinstance(value, Mapping)}


def differences(there: Mapping[Any, Any], here: Mapping[Any, Any]) -> list[Difference]:
    """Return each key at which two settings differ, and both values, in the order of the keys."""
    theirs, ours = leaves(there), leaves(here)
    found = ((key, theirs.get(key), ours.get(key)) for key in sorted(ours | theirs))
    return [(key, old, new) for key, old, new in found if old != new]


def listed(found: Sequence[Difference]) -> str:
    """Return the first differences as text, and how many more there are."""
    shown = [f"{key}={old!s:.64} there, {new!s:.64} here" for key, old, new in found[:MOST_SHOWN]]
    more = len(found) - len(shown)
    return "; ".join([*shown, f"{more} more"] if more else shown)
