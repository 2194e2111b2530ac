"""Submodules that are imported when they are first used: ``package.module.name`` needs no more."""

import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def submodule(package: str, name: str) -> Any:
    """Return a submodule, or raise what a module raises that has no such attribute."""
    if not name.startswith("_") and find_spec(f"{package}.{name}"):
        return import_module(f"{package}.{name}")
    raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)


def offer_submodules(package: str) -> None:
    """Let a package have its submodules as attributes; type checkers go on to see what it has."""
    vars(sys.modules[package])["__getattr__"] = partial(submodule, package)
