"""A study's report: tables, figures, and a template that is filled in as Markdown and HTML."""

import base64
import html
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import markdown
import matplotlib as mpl
import pandas as pd
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from implicit_em.base.files import whole
from implicit_em.base.tables import markdown_table
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.families import name_of
from implicit_em_studies.shared.tables import percent, write_tables

LINE_HEIGHT = 0.17
"""Height of a line of a trial's label above a figure, in inches."""


@dataclass(frozen=True)
class Report:
    """The directory of a study's report, and what every page of it says."""

    directory: Path
    provenance: Mapping[str, str]
    trial: str | None = None  # label of the trial; ``None`` for the protocol

    def write_tables(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Write tables as CSV."""
        write_tables(tables, self.directory / "tables", self.trial)

    def write_figures(self, figures: Mapping[str, Callable[[], Figure]]) -> None:
        """Draw figures in the common style and write each as PNG and PDF."""
        for name, draw in figures.items():
            with mpl.rc_context(style.STYLE):
                figure = draw()
                if self.trial:
                    lines = textwrap.wrap(self.trial, style.LINE)
                    figure.suptitle("\n".join(lines), color=style.VERMILION, fontsize=9)
                    figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * len(lines))
                for kind, metadata in (("png", None), ("pdf", {"CreationDate": None})):
                    with whole(self.directory / "figures" / f"{name}.{kind}") as temporary:
                        dpi = style.RESOLUTION
                        figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata)

    def write_page(self, package: str, template: str = "report.md.j2", **content: Any) -> Path:
        """Write a template as ``report.md`` and ``report.html``; return the path of the latter.

        The template gets this object as ``report``, and the content by its names.
        """
        text = re.sub(r"\n{3,}", "\n\n", render(package, template, report=self, **content))
        page = self.directory / "report.html"
        with whole(page.with_suffix(".md")) as temporary:
            temporary.write_text(text)
        with whole(page) as temporary:
            temporary.write_text(to_html(text, self.directory))
        return page


def forget(directory: Path, *patterns: str) -> None:
    """Remove the files of an earlier report."""
    for pattern in patterns:
        for path in directory.glob(pattern):
            path.unlink()


def render(package: str, template: str, /, **content: Any) -> str:
    """Fill in a template of a package, or of this one; a missing value is an error.

    The filter ``table`` writes a DataFrame in Markdown, ``lines`` writes a mapping as such a table
    under a heading, and ``unwrapped`` puts a paragraph on one line. The functions ``name_of`` and
    ``percent`` write families and shares.
    """
    return _environment(package).get_template(template).render(**content)


def sentences(package: str, template: str, /, **content: Any) -> list[str]:
    """Fill in a template and return its paragraphs, each on one line."""
    environment = _environment(package).overlay(trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template(template).render(**content)
    return [_unwrapped(paragraph) for paragraph in text.split("\n\n") if paragraph.strip()]


def _environment(package: str) -> Environment:
    loader = ChoiceLoader(
        [PackageLoader(name, "") for name in (package, "implicit_em_studies.shared")]
    )
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {
        "table": markdown_table,
        "lines": lambda values, heading: markdown_table(
            pd.DataFrame(values.items(), columns=["", heading])
        ),
        "unwrapped": _unwrapped,
    }
    environment.globals |= {"name_of": name_of, "percent": percent}
    return environment


def _unwrapped(text: str) -> str:
    return " ".join(text.split())


def to_html(text: str, directory: Path) -> str:
    """Return Markdown as one HTML page that holds its style and its PNG images of ``directory``."""
    unbroken = text.replace(" ± ", "\u00a0±\u00a0")
    body = markdown.markdown(unbroken, extensions=["tables", "md_in_html", "sane_lists"])

    def embed(match: re.Match[str]) -> str:
        content = (directory / html.unescape(match[1])).read_bytes()
        return f'src="data:image/png;base64,{base64.b64encode(content).decode()}"'

    title = text.partition("\n")[0].lstrip("# ")
    body = re.sub(r'src="([^":]+)"', embed, body)
    return render("implicit_em_studies.shared", "page.html.j2", title=html.escape(title), body=body)
