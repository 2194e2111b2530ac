"""The parts of the comparison, each on one data set: what they run and what they write."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import filterfalse, groupby
from pathlib import Path

import numpy as np
import pandas as pd

from implicit_em.base.errors import ConfigError, RunError
from implicit_em.base.files import write_json
from implicit_em.compare.costs import costs
from implicit_em.compare.figures import at_target
from implicit_em.compare.measuring import measure_all, stabilities, tuning_table
from implicit_em.compare.protocol import KNOBS
from implicit_em.compare.report import FamiliesContent, KnobsContent
from implicit_em.compare.results import Results, choose
from implicit_em.compare.stages import Stages, digest, has_diverged, settings_of, training_of
from implicit_em.compare.wording import name_of
from implicit_em.config.check import check
from implicit_em.studies import provenance, study_directory
from implicit_em.studies.execution import execute
from implicit_em.studies.pages import Report, forget
from implicit_em.studies.runs import Run, matrices_of
from implicit_em.studies.summary_run import log_summary
from implicit_em.training.directory import RunDirectory
from implicit_em.training.progress import working

log = logging.getLogger(__name__)


class Part(ABC):
    """A part on one data set; it is checked as a whole before anything is trained.

    Args:
        directory: directory of tables, figures and report.
        trial: label of the trial; ``None`` for the protocol.

    Raises:
        ConfigError: if a run is refused, or the directory holds the report of another protocol.
    """

    folder = "compare"  # the folder of ``conf/experiment`` that holds the settings

    def __init__(
        self, stages: Stages, dataset: str, directory: Path, conf: Path, trial: str | None
    ) -> None:
        self.stages, self.dataset, self.directory = stages, dataset, directory
        self.conf, self.trial = conf, trial
        self.protocol, self.part = stages.protocol, stages.part
        self.digest = digest(self.protocol, self.part, [*stages.settings, *stages.control_settings])
        found = study_directory.read_note(directory / "findings.json").get("digest", self.digest)
        if found != self.digest:
            raise ConfigError(
                f"{directory}: holds the report of another protocol, {found}, not {self.digest}; "
                "name another directory, or remove it: its runs lie beside it"
            )
        runs = self._plan()
        for run in runs:
            try:
                check(run.spec)
            except ConfigError as error:
                raise ConfigError(f"{error} ({run.sweep}, {settings_of(run)})") from error
        if len(runs[0].spec.build_data().split("train")[1].unique()) < 2:
            raise ConfigError(
                "data.labels: the comparison probes for labels, of two classes at least"
            )

    @abstractmethod
    def _plan(self) -> list[Run]:
        """Make the runs, and return those that are to be checked."""

    @abstractmethod
    def run(self, command: str, workers: int) -> Path:
        """Train and measure what is missing, and write the report; return its path."""

    def _train(self, runs: Sequence[Run], workers: int) -> None:
        """Train the runs that are not complete; a setting that diverges is a result."""
        tags = [self.dataset, self.part, *(["trial"] if self.trial else [])]
        waiting = list(filterfalse(has_diverged, runs))
        try:
            execute(waiting, workers, tags)
        except RunError:
            for run in filterfalse(has_diverged, waiting):
                if RunDirectory(run.directory).completed_metrics() is None:
                    raise

    def _write(
        self, content: FamiliesContent | KnobsContent, runs: Sequence[Run], command: str
    ) -> Path:
        """Write tables, figures, findings and report."""
        forget(self.directory, "report.*", "findings.json", "tables/*.csv", "figures/*.*")
        protocol = self.conf.resolve() / "compare.yaml"
        history = provenance.history_of(protocol, f"experiment/{self.folder}")
        origin = provenance.describe(command, runs, protocol=history)
        report = Report(self.directory, origin, self.trial)
        report.write_tables(content.tables)
        with working("drawing the figures"):
            report.write_figures(content.figures)
        note = {"trial": self.trial, "digest": self.digest, "findings": content.findings}
        write_json(self.directory / "findings.json", note)
        page = report.write_page(
            "implicit_em.compare", content.template, part=self, content=content
        )
        log_summary(runs[0].cfg, self.directory, content.tables, origin, self.trial)
        for sentence in content.findings:
            log.info("%s", sentence)
        log.info("Written to %s", page)
        return page


class Families(Part):
    """The families at matched density."""

    def _plan(self) -> list[Run]:
        folders = (self.conf / "experiment" / "compare", self.conf / "model")  # families, controls
        known = {path.stem for folder in folders for path in folder.glob("*.yaml")}
        known -= set(self.protocol.controls)
        for family, width in self.protocol.parts[self.part].items():
            if family not in known:
                raise ConfigError(
                    f"parts.{self.part}.{family}={width}: no family or control; "
                    f"allowed: {', '.join(sorted(known))}"
                )
        self.grids, self.controls = self.stages.grids(), self.stages.controls()
        return [*self.grids, *self.stages.possible_finals(), *self.controls]

    def run(self, command: str, workers: int) -> Path:
        """Tune, choose, train the finals, and write tables, figures and report."""
        for family, controls in groupby(self.controls, lambda run: run.sweep):
            log.info("control: %s", name_of(family))  # first, as one may not be fitted
            self._train(list(controls), workers)
        self._train(self.grids, workers)
        tuning = tuning_table(self.grids)
        chosen = choose(self.protocol, tuning)
        if chosen.empty:
            raise RunError(f"{self.dataset}, {self.part}: no setting comes near any density")
        finals = self.stages.finals(chosen)
        self._train(finals, workers)
        diverged = [(r.sweep, settings_of(r), r.cfg.seed) for r in filter(has_diverged, finals)]
        finals = list(filterfalse(has_diverged, finals))
        if not finals:
            raise RunError(f"{self.dataset}, {self.part}: every final diverged")
        first = {run.sweep: run for run in reversed(finals)}
        with working("measuring finals and controls"):
            results = Results(
                self.protocol,
                tuning,
                chosen,
                measure_all(finals, workers),
                measure_all(self.controls, workers),
                stabilities(finals),
                costs([first[name] for name in self.protocol.families if name in first]),
                pd.DataFrame(diverged, columns=["family", "settings", "seed"]),
            )
        content = FamiliesContent(
            results,
            _weights_shown(results, finals),
            finals[0].spec.build_data().sample_shape,
            training_of([*self.grids, *finals]),
        )
        return self._write(content, [*finals, *self.grids, *self.controls], command)


class Knobs(Part):
    """What the settings of the derived model move."""

    folder = KNOBS

    def _plan(self) -> list[Run]:
        self.runs = self.stages.knobs()
        return self.runs

    def run(self, command: str, workers: int) -> Path:
        """Train, and write table, figure and report."""
        self._train(self.runs, workers)
        table = tuning_table(self.runs).rename(columns={"family": "knob"})
        return self._write(KnobsContent(table, self.protocol), self.runs, command)


def _weights_shown(results: Results, finals: Sequence[Run]) -> dict[str, np.ndarray]:
    """Return the weight rows of each family's setting at the shown density, first seed."""
    shown = at_target(results, results.shown_density)
    first = shown[shown["seed"] == shown["seed"].min()]
    runs = {(run.sweep, run.fingerprint): run for run in finals}
    rows = {}
    for family, fingerprint in zip(first["family"], first["run"], strict=True):
        matrices = matrices_of(runs[family, fingerprint].model())
        rows[family] = matrices.get("decoder", matrices["encoder"])
    return rows
