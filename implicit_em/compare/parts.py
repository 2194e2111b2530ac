"""The parts of the comparison, of one data set each: what they run, and what they write."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import filterfalse, groupby
from pathlib import Path

import numpy as np
import pandas as pd

from implicit_em.base.errors import ConfigError, RunError
from implicit_em.compare.costs import costs
from implicit_em.compare.figures import at_target
from implicit_em.compare.findings import findings
from implicit_em.compare.knob_report import write_knobs
from implicit_em.compare.measuring import measure_all, stabilities, trained, tuning_table
from implicit_em.compare.protocol import DERIVED, KNOBS
from implicit_em.compare.report import shown_density, write_figures, write_report, write_tables
from implicit_em.compare.results import Results, choose
from implicit_em.compare.stages import (
    Stages,
    check_all,
    digest,
    has_diverged,
    named,
    training_of,
)
from implicit_em.compare.wording import name_of
from implicit_em.config.spec import RunSpec
from implicit_em.data import ResidentDataModule
from implicit_em.studies import provenance, study_directory
from implicit_em.studies.execution import execute
from implicit_em.studies.matrices import matrices_of
from implicit_em.studies.runs import Run
from implicit_em.studies.summary_run import log_summary
from implicit_em.training.directory import RunDirectory
from implicit_em.training.progress import working

log = logging.getLogger(__name__)


class Part(ABC):
    """What of one data set is run; nothing is trained before all of it is known to be possible."""

    folder = "compare"
    """Of ``conf/experiment``, where the settings are."""

    def __init__(
        self, stages: Stages, dataset: str, directory: Path, conf: Path, trial: str | None
    ) -> None:
        """Take what is run, and where it goes.

        Args:
            stages: of the part.
            dataset: its name.
            directory: of tables, figures and report.
            conf: the configuration files.
            trial: what makes this a trial, or ``None``.

        Raises:
            ConfigError: if something of it cannot be, or the directory has the report of another
                protocol.

        """
        self.stages, self.dataset, self.directory = stages, dataset, directory
        self.conf, self.trial = conf, trial
        self.protocol, self.part = stages.protocol, stages.part
        self.digest = digest(self.protocol, self.part, [*stages.settings, *stages.control_settings])
        self._refuse_another_report()
        runs = self._plan()
        check_all(runs)
        _refuse_unlabelled(RunSpec.of(runs[0].cfg).build_data())

    @abstractmethod
    def _plan(self) -> list[Run]:
        """Make the runs, and return all that are to be checked."""

    @abstractmethod
    def run(self, command: str, workers: int) -> Path:
        """Do what is not done, and write tables, figures and report; gives its path."""

    def _train(self, runs: Sequence[Run], workers: int) -> None:
        """Train what is not complete; that a setting diverges is a result."""
        tags = [self.dataset, self.part, *(["trial"] if self.trial else [])]
        waiting = [run for run in runs if not has_diverged(run)]
        try:
            execute(waiting, workers, tags, family=self._family)
        except RunError:
            if not all(map(_came_to_an_end, waiting)):
                raise

    def _family(self, run: Run) -> str:
        return run.places[0][0]

    def _refuse_another_report(self) -> None:
        note = study_directory.read_note(self.directory / "findings.json")
        if note.get("digest", self.digest) != self.digest:
            raise ConfigError(
                f"{self.directory}: holds the report of another protocol, {note['digest']}, not "
                f"{self.digest}; name another directory, or remove it: its runs lie beside it"
            )

    def _forget_report(self) -> None:
        """Leave no report beside figures that are not its own, and no table of an earlier one."""
        for old in ("report.*", "findings.json", "tables/*.csv", "figures/*.*"):
            for path in self.directory.glob(old):
                path.unlink()

    def _origin(self, command: str, runs: Sequence[Run]) -> dict[str, str]:
        return provenance.describe(
            command,
            [RunDirectory(run.directory).read_metrics() or {} for run in runs],
            protocol=provenance.history_of(
                self.conf.resolve() / "compare.yaml", f"experiment/{self.folder}"
            ),
        )

    def _finish(
        self,
        page: Path,
        said: Sequence[str],
        tables: dict[str, pd.DataFrame],
        origin: dict[str, str],
        run: Run,
    ) -> Path:
        log_summary(run.cfg, self.directory, tables, None, origin, self.trial)
        for sentence in said:
            log.info("%s", sentence)
        log.info("Written to %s", page)
        return page


class Families(Part):
    """The families at matched density."""

    def _plan(self) -> list[Run]:
        self.grids, self.controls = self.stages.grids(), self.stages.controls()
        self._refuse_unknown_widths()
        return [*self.grids, *self.stages.possible_finals(), *self.controls]

    def _refuse_unknown_widths(self) -> None:
        folders = (self.conf / "experiment" / "compare", self.conf / "model")  # families, controls
        known = sorted(
            {path.stem for folder in folders for path in folder.glob("*.yaml")}
            - set(self.protocol.controls)
        )
        for family, width in self.protocol.parts[self.part].items():
            if family not in known:
                raise ConfigError(
                    f"parts.{self.part}.{family}={width}: no family or control; "
                    f"allowed: {', '.join(known)}"
                )

    def run(self, command: str, workers: int) -> Path:
        """Do what is not done, and write tables, figures and report."""
        for control, runs in groupby(self.controls, self._family):  # first: one may not be fitted
            log.info("control: %s", name_of(control))
            self._train(list(runs), workers)
        self._train(self.grids, workers)
        tuning = tuning_table(self.grids)
        chosen = choose(self.protocol, tuning)
        if chosen.empty:
            raise RunError(f"{self.dataset}, {self.part}: no setting comes near any density")
        finals = self.stages.finals(chosen)
        self._train(finals, workers)
        lost = list(filter(has_diverged, finals))
        finals = list(filterfalse(has_diverged, finals))
        if not finals:
            raise RunError(f"{self.dataset}, {self.part}: every final diverged")
        first = {run.places[0][0]: run for run in reversed(finals)}
        with working("measuring finals and controls"):
            results = Results(
                self.protocol,
                tuning,
                chosen,
                measure_all(finals, workers),
                measure_all(self.controls, workers),
                stabilities(finals),
                costs([first[name] for name in self.protocol.families if name in first]),
                named(lost),
            )
        return self._report(results, finals, command)

    def _report(self, results: Results, finals: Sequence[Run], command: str) -> Path:
        self._forget_report()
        tables = results.tables()
        write_tables(tables, self.directory / "tables", self.trial)
        data = RunSpec.of(finals[0].cfg).build_data()
        rows = _rows_shown(results, finals)
        with working("drawing the figures"):
            write_figures(results, rows, data.sample_shape, self.directory / "figures", self.trial)
        origin = self._origin(command, [*self.grids, *finals, *self.controls])
        page = write_report(
            results,
            self.directory,
            self.dataset,
            self.part,
            self.digest,
            training_of([*self.grids, *finals]),
            origin,
            self.trial,
        )
        return self._finish(page, findings(results), tables, origin, finals[0])


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
        self._forget_report()
        origin = self._origin(command, self.runs)
        page, said, tables = write_knobs(
            table, self.protocol, self.directory, self.dataset, self.digest, origin, self.trial
        )
        return self._finish(page, said, tables, origin, self.runs[0])

    def _family(self, run: Run) -> str:
        return DERIVED


def _refuse_unlabelled(data: ResidentDataModule) -> None:
    if len(data.split("train")[1].unique()) < 2:
        raise ConfigError("data.labels: the comparison probes for labels, of two classes at least")


def _came_to_an_end(run: Run) -> bool:
    return RunDirectory(run.directory).completed_metrics() is not None or has_diverged(run)


def _rows_shown(results: Results, finals: Sequence[Run]) -> dict[str, np.ndarray]:
    """Return for each family the weight rows of its setting at one density, first seed."""
    shown = at_target(results, shown_density(results))
    first = shown[shown["seed"] == shown["seed"].min()]
    runs = {(run.places[0][0], run.fingerprint): run for run in finals}
    rows = {}
    for family, fingerprint in zip(first["family"], first["run"], strict=True):
        matrices = matrices_of(trained(runs[family, fingerprint]))
        rows[family] = matrices.get("decoder", matrices["encoder"])
    return rows
