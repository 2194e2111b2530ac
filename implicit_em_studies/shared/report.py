"""A study's report: its tables, figures and page, where its results come from, and its W&B run."""

import base64
import html
import platform
import re
import subprocess
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import markdown
import matplotlib as mpl
import pandas as pd
import torch
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from omegaconf import DictConfig
from threadpoolctl import threadpool_info

from implicit_em.base.files import whole
from implicit_em.base.tables import markdown_table
from implicit_em.config.schema import to_plain
from implicit_em.training.tracking import TolerantWandbLogger, start_logger
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.tables import name_of, percent

LINE_HEIGHT = 0.17
"""Height of a line of a trial's label above a figure, in inches."""


@dataclass(frozen=True)
class Report:
    """The directory of a study's report, and what every page of it says."""

    directory: Path
    provenance: Mapping[str, str]
    trial: str | None = None  # label of the trial; ``None`` for the protocol

    def write_tables(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Write tables as CSV, those of a trial with its label in a column."""
        for name, table in tables.items():
            if not len(table.columns):
                continue  # pandas could not read it
            labelled = table.assign(trial=self.trial) if self.trial else table
            with whole(self.directory / "tables" / f"{name}.csv") as temporary:
                labelled.to_csv(temporary, index=False)

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
    packages = package, "implicit_em_studies.shared"
    loader = ChoiceLoader([PackageLoader(name, "") for name in packages])
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


def describe(command: str, runs: Sequence[Run], **more: str) -> dict[str, str]:
    """Return what a reader needs to repeat a study of complete runs, as lines by name."""
    metrics = [run.metrics() for run in runs]
    versions = {", ".join(f"{n} {v}" for n, v in run["versions"].items()) for run in metrics}
    blas = {info["internal_api"] for info in threadpool_info() if info["user_api"] == "blas"}
    capability = f"torch {torch.backends.cpu.get_cpu_capability()}"
    return {
        "command": command,
        "date": f"{date.today()}",
        "commit": _git(Path(__file__).parent, "describe", "--always", "--dirty", "--exclude", "*"),
        **more,
        "runs": f"{len(runs)}, {sum(run['epochs'] for run in metrics):,} epochs in all",
        "device": ", ".join(sorted({run["device"] for run in metrics})),
        "versions": "; ".join(sorted(versions)),
        "processor": _processor(),
        "linear algebra": ", ".join([capability, *sorted(blas)]),
        "system": platform.system(),
    }


def history_of(file: Path, *more: str) -> str:
    """Return the commit that added a file, and the last that touched it or ``more`` beside it.

    A file that was moved was added under its first name.
    """
    added = ("log", "--follow", "--diff-filter=A", "--format=%h", "--", file.name)
    first = _git(file.parent, *added).rpartition("\n")[2]
    last = _git(file.parent, "log", "-1", "--format=%h", "--", file.name, *more)
    return f"first committed in {first}, last touched in {last}"


def _git(directory: Path, *arguments: str) -> str:
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        answer = ""
    return answer or "unknown: not a checkout"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = {line.partition(": ")[2] for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor() or platform.machine()


def log_summary(
    cfg: DictConfig,
    directory: Path,
    tables: Mapping[str, pd.DataFrame],
    provenance: Mapping[str, str],
    trial: str | None,
) -> None:
    """Log the study as a W&B run of job type ``summary``, if the logger of its runs is W&B."""
    spec = to_plain(cfg)["logger"]
    if not spec.get("_target_", "").endswith(".WandbLogger"):
        return
    spec |= {"name": f"summary of {directory.name}", "job_type": "summary"}
    tags = ["trial"] if trial else []
    logger = start_logger(spec, directory, {**provenance, "trial": trial}, "summary", tags)
    if not isinstance(logger, TolerantWandbLogger):
        return
    with logger.dropping():
        for name, frame in tables.items():
            cells = frame.astype(object).where(frame.notna(), None)
            logger.log_table(f"tables/{name}", dataframe=cells)
        for figure in sorted((directory / "figures").glob("*.png")):
            logger.log_image(f"figures/{figure.stem}", [str(figure)])
    logger.finish()
