"""The files of a page."""

import json
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from implicit_em.base.errors import ConfigError
from implicit_em.base.files import whole, writing

MARK = "implicit-em features"
"""Name of the generator in the page, by which an earlier one is known."""
INDEX = "index.html"
OF_A_PAGE = {INDEX, "app.js", "style.css", "data"}
"""All that the folder of a page holds."""


class Page:
    """A folder with ``index.html``, whose data are loaded when they are needed.

    Nothing is seen there before the page is complete.

    Args:
        path: the folder; an earlier page there is replaced.
        served: names of the requests that a server of the page answers.

    Raises:
        ConfigError: if the path has no name of its own.
    """

    def __init__(self, path: Path, served: Collection[str] = ()) -> None:
        if not path.name:  # "." or "/"
            raise ConfigError(f"out={path}: needs a name")
        self.path, self.served = path, served

    def check(self) -> None:
        """Raise ``ConfigError`` if something else than an earlier page is there."""
        if not self.path.exists():
            return
        held = {path.name for path in self.path.iterdir()} if self.path.is_dir() else {""}
        index = self.path / INDEX
        is_page = index.is_file() and MARK in index.read_text("utf-8", "replace")[:1000]
        if held and not (held <= OF_A_PAGE and is_page):
            raise ConfigError(
                f"out={self.path}: holds other files; nothing is overwritten: choose another place"
            )

    def write(self, data: Iterable[tuple[str, Any]], runs: int) -> Path:
        """Write the page of a number of runs, and return the path to open.

        Args:
            data: what the page loads, each beside its name; it is written as it is made, as scripts
                that hand the data to the page, because a page may not read files.
            runs: number of runs.

        Raises:
            WriteError: if a file cannot be written.
        """
        with whole(self.path) as folder:
            for name, content in data:
                path = folder / "data" / f"{name}.js"
                path.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps(content, separators=(",", ":"), allow_nan=False)
                path.write_text(f'explorer("{name}",{text})\n', "ascii")
            for name in ("app.js", "style.css"):
                (folder / name).write_text(asset(name), "utf-8")
            index = render("index.html.j2", mark=MARK, runs=runs, served=" ".join(self.served))
            (folder / INDEX).write_text(index, "utf-8")
            shutil.rmtree(self.path, ignore_errors=True)
        return self.path / INDEX


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """Yield a temporary folder on the disk of a path."""
    with writing(beside):
        beside.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".explore-", dir=beside.parent) as folder:
            yield Path(folder)


def asset(name: str) -> str:
    """Return the text of a file of this package."""
    return files("implicit_em.viewer").joinpath(name).read_text("utf-8")


def render(template: str, **content: Any) -> str:
    """Fill in a template of this package; text in it is escaped, and a missing value an error."""
    loader = PackageLoader("implicit_em.viewer", "")
    environment = Environment(loader=loader, undefined=StrictUndefined, autoescape=True)
    return environment.get_template(template).render(**content)
