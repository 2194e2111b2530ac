"""The files of a page: a folder, or a single file."""

import base64
import hashlib
import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
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
    def write(self, data: Iterable[tuple[str, Any]], runs: int) -> Path:
        """Write the page of a number of runs, and return the path to open.

        Args:
            data: what the page loads, each beside its name; it is written as it is made.
            runs: number of runs.

        Raises:
            WriteError: if a file cannot be written.
        """


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

    def write(self, data: Iterable[tuple[str, Any]], runs: int) -> Path:
        """Write data as scripts that hand them to the page, because it may not read files."""
        with whole(self.path) as folder:
            for name, content in data:
                path = folder / "data" / f"{name}.js"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f'explorer("{name}",{_json(content)})\n', "ascii")
            for name in ("app.js", "style.css"):
                (folder / name).write_text(asset(name), "utf-8")
            index = _html(runs=runs, single=None, served=" ".join(self.served))
            (folder / INDEX).write_text(index, "utf-8")
            shutil.rmtree(self.path, ignore_errors=True)
        return self.path / INDEX


class SingleFile(Page):
    """One HTML file that holds everything."""

    def _is_earlier(self) -> bool:
        return _is_page(self.path)

    def write(self, data: Iterable[tuple[str, Any]], runs: int) -> Path:
        """Write data into the page; in HTML, only ``<`` could end them."""
        single: dict[str, Any] = {
            "data": {name: Markup(_json(it).replace("<", r"\u003c")) for name, it in data}
        }
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
