"""Submodules that are imported on first use, so that ``package.module.name`` works."""

import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def submodule(package: str, name: str) -> Any:
    """Return a submodule, or raise ``AttributeError`` as a module does."""
    if not name.startswith("_") and find_spec(f"{package}.{name}"):
        return import_module(f"{package}.{name}")
    raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)


def offer_submodules(package: str) -> None:
    """Give a package its submodules as attributes.

    Type checkers do not see this, and still report names that the package lacks.
    """
    vars(sys.modules[package])["__getattr__"] = partial(submodule, package)
