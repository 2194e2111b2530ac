"""The files of a page: a folder, or a single file."""

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from implicit_em.base.errors import ConfigError, WriteError
from implicit_em.base.files import whole

MARK = "implicit-em features"
"""Name of the generator in the page, by which an earlier one is known."""
INDEX = "index.html"
OF_A_PAGE = {INDEX, "app.js", "style.css", "data"}
"""All that the folder of a page holds."""


class Page(Protocol):
    """Where a page is written to; nothing is seen there before it is complete."""

    path: Path

    def check(self) -> None:
        """Raise ``ConfigError`` if something else than an earlier page is there."""

    def put(self, name: str, content: Any) -> None:
        """Write data that the page loads by their name."""

    def finish(self, runs: int) -> Path:
        """Write the page itself for a number of runs, and return the path to open."""

    def forget(self) -> None:
        """Remove what was not finished."""


class Folder:
    """A folder with ``index.html``, whose data are loaded when they are needed.

    Args:
        path: the folder; an earlier page there is replaced.
        served: whether a server gives the page, which it may then ask about inputs.
    """

    def __init__(self, path: Path, served: bool = False) -> None:
        self.path, self.served = path, served
        self._temporary = path.with_name(f".{os.getpid()}-{path.name}")

    def check(self) -> None:
        """Raise ``ConfigError`` if the folder holds something else than an earlier page."""
        if not self.path.exists():
            return
        held = {path.name for path in self.path.iterdir()} if self.path.is_dir() else {""}
        if held and not (held <= OF_A_PAGE and _is_page(self.path / INDEX)):
            raise ConfigError(f"out={self.path}: {_REFUSED}")

    def put(self, name: str, content: Any) -> None:
        """Write data as a script that hands them to the page: it may not read files."""
        with _writing(self.path):
            path = self._temporary / "data" / f"{name}.js"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'explorer("{name}",{_json(content)})\n', "ascii")

    def finish(self, runs: int) -> Path:
        """Write what is fixed, and put all in its place."""
        with _writing(self.path):
            for name in ("app.js", "style.css"):
                (self._temporary / name).write_text(_asset(name), "utf-8")
            (self._temporary / INDEX).write_text(
                _html(runs=runs, single=None, served=self.served), "utf-8"
            )
            shutil.rmtree(self.path, ignore_errors=True)
            self._temporary.rename(self.path)
        return self.path / INDEX

    def forget(self) -> None:
        """Remove what was not finished."""
        shutil.rmtree(self._temporary, ignore_errors=True)


class SingleFile:
    """One HTML file that holds everything.

    Args:
        path: the file; an earlier page there is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: dict[str, Markup] = {}

    def check(self) -> None:
        """Raise ``ConfigError`` if there is something else than an earlier page."""
        if self.path.exists() and not _is_page(self.path):
            raise ConfigError(f"out={self.path}: {_REFUSED}")

    def put(self, name: str, content: Any) -> None:
        """Keep data; in HTML, only ``<`` could end them."""
        self._data[name] = Markup(_json(content).replace("<", r"\u003c"))

    def finish(self, runs: int) -> Path:
        """Write the file."""
        script, style = _asset("app.js"), _asset("style.css")
        single = {
            "data": self._data,
            "script": Markup(script),
            "style": Markup(style),
            "script_hash": _hash(script),
            "style_hash": _hash(style),
        }
        with whole(self.path) as temporary:
            temporary.write_text(_html(runs=runs, single=single, served=False), "utf-8")
        return self.path

    def forget(self) -> None:
        """Do nothing: there is no file before the end."""


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """Yield a temporary folder on the disk of a path."""
    with _writing(beside):
        beside.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".explore-", dir=beside.parent) as folder:
            yield Path(folder)


_REFUSED = "holds other files; nothing is overwritten: choose another place"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error


def _is_page(path: Path) -> bool:
    return path.is_file() and MARK in path.read_text("utf-8", "replace")[:1000]


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def _asset(name: str) -> str:
    return files("implicit_em.viewer").joinpath(name).read_text("utf-8")


def _html(**content: Any) -> str:
    return render("index.html.j2", mark=MARK, **content)


def render(template: str, **content: Any) -> str:
    """Fill in a template of this package; text in it is escaped, and a missing value an error."""
    loader = PackageLoader("implicit_em.viewer", "")
    environment = Environment(loader=loader, undefined=StrictUndefined, autoescape=True)
    return environment.get_template(template).render(**content)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
