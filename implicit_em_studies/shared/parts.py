"""A study of tuned families from one call: parts that are checked, run, and written to a page."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic
from typing import Protocol as Shape

import pandas as pd
from matplotlib.figure import Figure

from implicit_em.base.errors import ConfigError
from implicit_em.base.files import write_json
from implicit_em.base.threads import cores
from implicit_em.config import CONF
from implicit_em.training.progress import working
from implicit_em_studies.shared import provenance, study_directory
from implicit_em_studies.shared.command_line import command
from implicit_em_studies.shared.configuration import folder_of
from implicit_em_studies.shared.execution import execute_all
from implicit_em_studies.shared.pages import Report, forget
from implicit_em_studies.shared.protocol import trial_label
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.stages import P, check_all
from implicit_em_studies.shared.summary_run import log_summary

log = logging.getLogger(__name__)


class Content(Shape):
    """What a part found; its template may name more."""

    template: ClassVar[str]

    @property
    def findings(self) -> list[str]:
        """What the tables say, one sentence each."""

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Tables of numbers by name."""

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name."""


class Part(ABC, Generic[P]):
    """A part with a report of its own; it is checked as a whole before anything is trained.

    Args:
        digest: what identifies the part's protocol and settings.
        directory: directory of tables, figures and report.
        trial: label of the trial; ``None`` for the protocol.
        tags: tags of its runs in W&B.

    Raises:
        ConfigError: if a run is refused, or the directory holds the report of another protocol.
    """

    package: ClassVar[str]  # which has the templates

    def __init__(
        self,
        protocol: P,
        digest: str,
        directory: Path,
        conf: Path,
        trial: str | None,
        tags: Sequence[str] = (),
    ) -> None:
        self.protocol, self.digest, self.directory = protocol, digest, directory
        self.conf, self.trial = conf, trial
        self.tags = [*tags, *(["trial"] if trial else [])]
        found = study_directory.read_note(directory / "findings.json").get("digest", digest)
        if found != digest:
            raise ConfigError(
                f"{directory}: holds the report of another protocol, {found}, not {digest}; "
                "name another directory, or remove it: its runs lie beside it"
            )
        check_all(self.plan())

    @abstractmethod
    def plan(self) -> Iterable[Run]:
        """Return the runs that are to be checked."""

    @abstractmethod
    def run(self, command: str, workers: int) -> Path:
        """Train and measure what is missing, and write the report; return its path."""

    def train(self, runs: Sequence[Run], workers: int) -> None:
        """Train the runs that are not complete; a setting that diverges is a result."""
        execute_all(runs, workers, self.tags)

    def write(self, content: Content, runs: Sequence[Run], command: str, **note: Any) -> Path:
        """Write tables, figures, findings and report; ``note`` is kept beside the findings."""
        forget(self.directory, "report.*", "findings.json", "tables/*.csv", "figures/*.*")
        file = folder_of(self.conf) / self.protocol.file
        history = provenance.history_of(file)
        origin = provenance.describe(command, runs, protocol=history)
        report = Report(self.directory, origin, self.trial)
        report.write_tables(content.tables)
        with working("drawing the figures"):
            report.write_figures(content.figures)
        kept = {"trial": self.trial, "digest": self.digest, **note, "findings": content.findings}
        write_json(self.directory / "findings.json", kept)
        page = report.write_page(self.package, content.template, part=self, content=content)
        log_summary(runs[0].cfg, self.directory, content.tables, origin, self.trial)
        for sentence in content.findings:
            log.info("%s", sentence)
        log.info("Written to %s", page)
        return page


@dataclass(frozen=True)
class Study(Generic[P]):
    """A study, named by its command.

    Args:
        noun: what one run of it is called.
        directory: directory of the protocol's results.
        prepare: function that composes and checks the parts that words name, given the directory,
            the folder of configuration files, settings of all runs, and the label of the trial.
    """

    name: str
    noun: str
    directory: Path
    protocol: type[P]
    prepare: Callable[[P, Sequence[str], Path, Path, Sequence[str], str | None], Sequence[Part[P]]]

    def run(
        self,
        directory: str | Path,
        words: Sequence[str],
        changes: Sequence[str],
        workers: int | None,
        conf: str | Path,
        quick: bool = False,
    ) -> list[Path]:
        """Run the parts that words name and write their reports; return the reports' paths.

        Complete runs and measurements are reused, also by other parts. Settings other than the
        protocol's make a trial, and everything says so.

        Args:
            directory: directory of the runs and of the reports.
            words: names of parts; all if none is named.
            changes: ``KEY=VALUE`` settings of the protocol or, in Hydra's notation, of all runs.
            workers: number of stacks that train, or processes that measure, at a time; ``None`` for
                one per core.
            conf: folder of configuration files.
            quick: whether to make a short trial, by default in a directory of its own. The
                protocol's ``quick`` names its changes, which come before ``changes``, and the parts
                if none is named.

        Raises:
            ConfigError: if a setting is refused, or the directory holds another study.
            RunError: if runs failed.
        """
        directory, conf = Path(directory), Path(conf)
        study_directory.refuse_arguments(workers, conf, self.protocol.file)
        conf = conf.resolve()
        if quick:
            given = self.protocol.read(conf).quick
            words = words or [word for word in given if "=" not in word]
            typed = {change.partition("=")[0] for change in changes}
            short = [word for word in given if "=" in word and word.partition("=")[0] not in typed]
            changes = [*short, *changes]
            if directory == self.directory:
                directory = directory.with_name(f"{directory.name}-quick")
        self.protocol.refuse_misspelt(changes, conf)
        protocol = self.protocol.read(conf, list(filter(self.protocol.has, changes)))
        overrides = [change for change in changes if not self.protocol.has(change)]
        protocol.refuse_own_settings(overrides)
        trial, note = trial_label(changes), directory / f"{self.noun}.json"
        found = study_directory.read_note(note)
        study_directory.refuse_directory(directory, self.directory, found, trial)
        prepared = self.prepare(protocol, words, directory, conf, overrides, trial)
        with study_directory.alone(directory, self.noun):
            write_json(note, {"trial": trial})
            folders = {"directory": (directory, self.directory), "conf": (conf, CONF)}
            line = command(self.name, [*words, *changes], **folders)
            return [part.run(line, workers or cores()) for part in prepared]
