"""Refusals of values: a message names the setting, the value and what is allowed."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from implicit_em.base.errors import ConfigError


def check_word(name: str, value: Any, allowed: Iterable[Any], where: str = "") -> None:
    """Raise ``ConfigError`` for a value that is not allowed; the message shows values as YAML does.

    ``where`` follows the value, and says under which condition the allowed values hold.
    """
    allowed = list(allowed)  # not every value has a hash; and 1 is not true, though equal to it
    if (isinstance(value, bool), value) not in [(isinstance(each, bool), each) for each in allowed]:
        several = isinstance(value, Sequence) and not isinstance(value, str)
        shown = f"[{', '.join(map(_shown, value))}]" if several else _shown(value)
        verb = "is one of" if several else "is" if len(allowed) == 1 else "are"
        words = ", ".join(map(_shown, allowed))
        raise ConfigError(f"{name}={shown}{where}: allowed {verb} {words}")


def _shown(word: Any) -> str:
    return json.dumps(word) if word is None or isinstance(word, bool) else str(word)


def check_whole(
    name: str, value: Any, least: int, most: int | None = None, or_null: bool = False
) -> None:
    """Raise ``ConfigError`` for a value that is no whole number, or out of range."""
    if or_null and value is None:
        return
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not (is_whole and least <= value <= (value if most is None else most)):
        end = "on" if most is None else f"to {most}"
        null = "null and " if or_null else ""
        raise ConfigError(f"{name}={value}: allowed are {null}whole numbers from {least} {end}")


def check_number(name: str, value: Any, fits: Callable[[float], bool], allowed: str) -> None:
    """Raise ``ConfigError`` for a value that is no finite number, or does not fit."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and fits(value)):
        raise ConfigError(f"{name}={value}: allowed are {allowed}")
