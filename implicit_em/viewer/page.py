"""The files of a page: a folder, or a single file."""

import base64
import hashlib
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from implicit_em.base.errors import ConfigError
from implicit_em.base.files import whole, writing

MARK = "implicit-em features"
"""Name of the generator in the page, by which an earlier one is known."""
INDEX = "index.html"
OF_A_PAGE = {INDEX, "app.js", "style.css", "data"}
"""All that the folder of a page holds."""


class Page(ABC):
    """Where a page is written to; nothing is seen there before it is complete.

    Args:
        path: path of the page; an earlier page there is replaced.

    Raises:
        ConfigError: if the path has no name of its own.
    """

    def __init__(self, path: Path) -> None:
        if not path.name:  # "." or "/"
            raise ConfigError(f"out={path}: needs a name")
        self.path = path
        self._temporary = path.with_name(f".{os.getpid()}-{path.name}")

    def check(self) -> None:
        """Raise ``ConfigError`` if something else than an earlier page is there."""
        if self.path.exists() and not self._is_earlier():
            raise ConfigError(
                f"out={self.path}: holds other files; nothing is overwritten: choose another place"
            )

    @abstractmethod
    def _is_earlier(self) -> bool:
        """Return whether what is there is an earlier page."""

    @abstractmethod
    def put(self, name: str, content: Any) -> None:
        """Write data that the page loads by their name."""

    @abstractmethod
    def finish(self, runs: int) -> Path:
        """Write the page itself for a number of runs, and return the path to open."""

    def forget(self) -> None:
        """Remove what was not finished, if anything is there."""
        shutil.rmtree(self._temporary, ignore_errors=True)


class Folder(Page):
    """A folder with ``index.html``, whose data are loaded when they are needed.

    Args:
        path: the folder; an earlier page there is replaced.
        served: names of the requests that a server of the page answers.
    """

    def __init__(self, path: Path, served: Collection[str] = ()) -> None:
        super().__init__(path)
        self.served = served

    def _is_earlier(self) -> bool:
        held = {path.name for path in self.path.iterdir()} if self.path.is_dir() else {""}
        return not held or (held <= OF_A_PAGE and _is_page(self.path / INDEX))

    def put(self, name: str, content: Any) -> None:
        """Write data as a script that hands them to the page: it may not read files."""
        with writing(self.path):
            path = self._temporary / "data" / f"{name}.js"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'explorer("{name}",{_json(content)})\n', "ascii")

    def finish(self, runs: int) -> Path:
        """Write what is fixed, and put all in its place."""
        index = _html(runs=runs, single=None, served=" ".join(self.served))
        with writing(self.path):
            for name in ("app.js", "style.css"):
                (self._temporary / name).write_text(asset(name), "utf-8")
            (self._temporary / INDEX).write_text(index, "utf-8")
            shutil.rmtree(self.path, ignore_errors=True)
            self._temporary.rename(self.path)
        return self.path / INDEX


class SingleFile(Page):
    """One HTML file that holds everything."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._data: dict[str, Markup] = {}

    def _is_earlier(self) -> bool:
        return _is_page(self.path)

    def put(self, name: str, content: Any) -> None:
        """Keep data; in HTML, only ``<`` could end them."""
        self._data[name] = Markup(_json(content).replace("<", r"\u003c"))

    def finish(self, runs: int) -> Path:
        """Write the file."""
        single: dict[str, Any] = {"data": self._data}
        for kind, name in (("script", "app.js"), ("style", "style.css")):
            text = asset(name)
            single |= {kind: Markup(text), f"{kind}_hash": _hash(text)}
        with whole(self.path) as temporary:
            temporary.write_text(_html(runs=runs, single=single, served=""), "utf-8")
        return self.path


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """Yield a temporary folder on the disk of a path."""
    with writing(beside):
        beside.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".explore-", dir=beside.parent) as folder:
            yield Path(folder)


def _is_page(path: Path) -> bool:
    return path.is_file() and MARK in path.read_text("utf-8", "replace")[:1000]


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def asset(name: str) -> str:
    """Return the text of a file of this package."""
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
