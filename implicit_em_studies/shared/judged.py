"""A study of experiments that end with verdicts: its runs, its report, and their order."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from implicit_em.base.errors import ConfigError
from implicit_em.base.files import write_json
from implicit_em.base.tables import print_rows
from implicit_em.training.progress import working
from implicit_em_studies.shared.claims import Claims
from implicit_em_studies.shared.experiment import Evidence, Experiment
from implicit_em_studies.shared.planning import Grid, plan_sweeps
from implicit_em_studies.shared.protocol import digest, folder_of, read_grids, trial_label
from implicit_em_studies.shared.report import Report, describe, forget, history_of, log_summary
from implicit_em_studies.shared.runs import Run, execute
from implicit_em_studies.shared.study import Part, Plan, Request, Study
from implicit_em_studies.shared.tables import records

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class JudgedStudy(Study):
    """A study with verdicts.

    Args:
        package: package that has the report's template.
        experiments: its experiments by name.
        protocol: the digest of each sweep's runs.
        claims: what is judged.
        evidence: function that makes of all that was measured what the criteria judge.
        file: name of the file of a table or figure, of the ``{experiment}`` and its ``{name}``.
        shortened: settings of a quick trial.
    """

    package: str
    experiments: Mapping[str, Experiment]
    protocol: Mapping[str, str]
    claims: Claims[Any]
    evidence: Callable[[Evidence], Any] = dict
    file: str = "{experiment}_{name}"
    shortened: Sequence[str] = ()
    metavar: str = "EXPERIMENT | KEY=VALUE"
    words: str = (
        "experiments, all if none is named, and settings of all runs, which make it a trial"
    )

    def short(self, conf: Path) -> Sequence[str]:
        """Return the settings of a quick trial."""
        return self.shortened

    def plan(self, request: Request) -> Plan:
        """Return how the study is made; experiments that the directory holds stay in its report."""
        known, asked = self.experiments, request.words or self.experiments
        if unknown := [name for name in asked if name not in known]:
            raise ConfigError(f"{unknown[0]}: no such experiment; allowed: {', '.join(known)}")
        earlier = request.found.get("experiments", ())
        together = [name for name in known if name in asked or name in earlier]
        runs = self.runs(together, request.directory / "runs", request.conf, request.changes)
        trial = None
        if not self.is_protocol(together, runs):
            trial = trial_label(request.changes) or "TRIAL with changed configuration files"

        def prepare() -> list[Part]:
            runs[0].spec.build_data()  # refuses data that cannot be read
            return [JudgedPart(self, together, runs, request.directory, trial)]

        return Plan(together, trial, prepare)

    def runs(
        self,
        experiments: Sequence[str],
        directory: Path,
        conf: Path,
        overrides: Sequence[str] = (),
    ) -> list[Run]:
        """Plan the runs of experiments as ``plan_sweeps`` does; W&B groups them by experiment."""
        grids = self.grids(conf)
        sweeps = {name: grids.get(name, {"experiment": name}) for name in self._sweeps(experiments)}
        runs = plan_sweeps(sweeps, directory, conf, overrides)
        for run in runs:
            of = [name for name, one in self.experiments.items() if {*one.sweeps} & {*run.sweeps}]
            run.group = next(name for name in of if run.sweep in self.experiments[name].sweeps)
            run.tags = of
        return runs

    def digests(self, experiments: Sequence[str], runs: Sequence[Run]) -> dict[str, str]:
        """Return a digest of each sweep's runs."""
        return {
            sweep: digest(run.spec.settings for run in runs if sweep in run.sweeps)
            for sweep in self._sweeps(experiments)
        }

    def is_protocol(self, experiments: Sequence[str], runs: Sequence[Run]) -> bool:
        """Return whether the runs are those of the protocol."""
        return self.digests(experiments, runs).items() <= self.protocol.items()

    def grids(self, conf: Path) -> Mapping[str, Grid]:
        """Return the sweeps that a file of the study has; others are files of ``experiment``.

        Raises:
            ConfigError: if the file cannot be read.
        """
        file = folder_of(conf) / f"{self.name}.yaml"
        return read_grids(file) if file.exists() else {}

    def by_file(self, found: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
        """Return what experiments have by name, by the name of its file."""
        return {
            self.file.format(experiment=experiment, name=name): one
            for experiment, own in found.items()
            for name, one in own.items()
        }

    def _sweeps(self, experiments: Sequence[str]) -> list[str]:
        return [sweep for name in experiments for sweep in self.experiments[name].sweeps]


@dataclass(frozen=True)
class JudgedPart(Part):
    """Experiments of a study with verdicts, in one report.

    Args:
        names: names of the experiments.
        trial: label of the trial; ``None`` for the protocol.
    """

    study: JudgedStudy
    names: Sequence[str]
    runs: Sequence[Run]
    directory: Path
    trial: str | None

    def run(self, command: str, workers: int) -> Path:
        """Train what is missing, measure, draw, judge and write the report; return its path."""
        execute(self.runs, workers, ["trial"] if self.trial else [])
        note = {"trial": self.trial, "experiments": self.names}
        write_json(self.directory / f"{self.study.noun}.json", note)
        forget(self.directory, "report.*", "verdicts.*")
        judge = next(iter(self.study.claims.by_key.values())).judge
        criteria = history_of(Path(inspect.getfile(judge)))
        origin = describe(command, self.runs, criteria=criteria)
        return self.write(Report(self.directory, origin, self.trial))

    def write(self, report: Report) -> Path:
        """Measure, draw, judge and write the report of complete runs; a trial has no verdicts."""
        study, runs = self.study, self.runs
        experiments = {name: study.experiments[name] for name in self.names}
        measured = {}
        for name, one in experiments.items():
            own = [run for run in runs if {*run.sweeps} & {*one.sweeps}]
            with working(f"measuring {name}"):
                measured[name] = one.measure(own)
        tables = study.by_file({n: one.tables(measured[n]) for n, one in experiments.items()})
        report.write_tables(tables)
        for file, shown in study.by_file({n: one.shown for n, one in experiments.items()}).items():
            if shown.names:
                shown.write(tables[file], report.directory / "tables" / file, report.trial)
        with working("drawing the figures"):
            report.write_figures(
                study.by_file({n: one.drawn(measured[n]) for n, one in experiments.items()})
            )
        claims, verdicts = [], ""
        if not report.trial:
            found = study.claims.judge(study.evidence(measured), self.names)
            study.claims.write(found, report.provenance, report.directory)
            print_rows("Verdicts", study.claims.in_short(found))
            claims, verdicts = records(found), study.claims.as_markdown(found)
            tables |= {"verdicts": found}
        page = report.write_page(
            study.package,
            experiments=experiments,
            measured=measured,
            claims=claims,
            verdicts=verdicts,
        )
        log_summary(runs[0].cfg, report.directory, tables, report.provenance, report.trial)
        log.info("Written to %s", page)
        return page
