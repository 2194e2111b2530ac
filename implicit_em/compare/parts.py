"""The parts of the comparison, of one data set each: what they run, and what they write."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import filterfalse
from pathlib import Path
from typing import Any

import numpy as np

from implicit_em.compare.costs import costs
from implicit_em.compare.figures import at_target
from implicit_em.compare.knob_report import write_knobs
from implicit_em.compare.measuring import measure_all, stabilities, trained, tuning_table
from implicit_em.compare.protocol import DERIVED
from implicit_em.compare.report import shown_density, write_figures, write_report, write_tables
from implicit_em.compare.results import Results, choose, findings
from implicit_em.compare.stages import Stages, check_all, digest, has_diverged, named
from implicit_em.config import to_plain
from implicit_em.errors import RunError
from implicit_em.experiments import provenance
from implicit_em.experiments.evidence import matrices_of
from implicit_em.experiments.execution import execute
from implicit_em.experiments.study import Run
from implicit_em.experiments.summary_run import log_summary
from implicit_em.fitting import load_data
from implicit_em.rundir import RunDirectory
from implicit_em.terminal import working

log = logging.getLogger(__name__)


class Part(ABC):
    """What of one data set is run; nothing is written before all of it is known to be possible."""

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

        """
        self.stages, self.dataset, self.directory = stages, dataset, directory
        self.conf, self.trial = conf, trial
        self.protocol, self.part = stages.protocol, stages.part

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

    def _forget_report(self) -> None:
        """Leave no report beside figures that are not its own."""
        for old in ("report.md", "report.html", "findings.json"):
            (self.directory / old).unlink(missing_ok=True)

    def _digest(self) -> str:
        return digest(self.protocol, [*self.stages.settings, *self.stages.control_settings])

    def _origin(self, command: str, runs: Sequence[Run]) -> dict[str, str]:
        return provenance.describe(
            command,
            [RunDirectory(run.directory).read_metrics() or {} for run in runs],
            protocol=provenance.history_of(self.conf.resolve() / "compare.yaml"),
        )


class Families(Part):
    """The families at matched density."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.grids, self.controls = self.stages.grids(), self.stages.controls()
        check_all([*self.grids, *self.controls])

    def run(self, command: str, workers: int) -> Path:
        """Do what is not done, and write tables, figures and report."""
        load_data(to_plain(self.grids[0].cfg))
        self._train(self.grids, workers)
        tuning = tuning_table(self.grids)
        chosen = choose(self.protocol, tuning)
        if chosen.empty:
            raise RunError(f"{self.dataset}, {self.part}: no setting comes near any density")
        finals = self.stages.finals(chosen, self.grids)
        check_all(finals)
        self._train([*finals, *self.controls], workers)
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
        tables = write_tables(results, self.directory / "tables", self.trial)
        data = load_data(to_plain(finals[0].cfg))
        rows = _rows_shown(results, finals)
        with working("drawing the figures"):
            write_figures(results, rows, data.sample_shape, self.directory / "figures", self.trial)
        origin = self._origin(command, [*self.grids, *finals, *self.controls])
        page = write_report(
            results, self.directory, self.dataset, self.part, self._digest(), origin, self.trial
        )
        log_summary(finals[0].cfg, self.directory, tables, None, origin, self.trial)
        for sentence in findings(results):
            log.info("%s", sentence)
        log.info("Written to %s", page)
        return page


class Knobs(Part):
    """What the settings of the derived model move."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.runs = self.stages.knobs()
        check_all(self.runs)

    def run(self, command: str, workers: int) -> Path:
        """Train, and write table, figure and report."""
        load_data(to_plain(self.runs[0].cfg))
        self._train(self.runs, workers)
        table = tuning_table(self.runs).rename(columns={"family": "knob"})
        self._forget_report()
        origin = self._origin(command, self.runs)
        page, said = write_knobs(
            table, self.protocol, self.directory, self.dataset, self._digest(), origin, self.trial
        )
        log_summary(self.runs[0].cfg, self.directory, {"knobs": table}, None, origin, self.trial)
        for sentence in said:
            log.info("%s", sentence)
        log.info("Written to %s", page)
        return page

    def _family(self, run: Run) -> str:
        return DERIVED


def _came_to_an_end(run: Run) -> bool:
    return RunDirectory(run.directory).completed_metrics() is not None or has_diverged(run)


def _rows_shown(results: Results, finals: Sequence[Run]) -> dict[str, np.ndarray]:
    """Return for each family the weight rows of its setting at one density, first seed."""
    shown = at_target(results, shown_density(results))
    first = shown[shown["seed"] == shown["seed"].min()]
    runs = {run.fingerprint: run for run in finals}
    rows = {}
    for family, fingerprint in zip(first["family"], first["run"], strict=True):
        matrices = matrices_of(trained(runs[fingerprint]))
        rows[family] = matrices.get("decoder", matrices["encoder"])
    return rows
