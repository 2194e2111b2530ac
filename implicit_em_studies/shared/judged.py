"""A study of experiments that end with verdicts: its runs, its report, and their order."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from implicit_em.base.errors import ConfigError
from implicit_em.base.files import write_json
from implicit_em.base.progress import working
from implicit_em.base.tables import print_rows
from implicit_em_studies.shared.claims import Claims
from implicit_em_studies.shared.experiment import Experiment, Measured
from implicit_em_studies.shared.planning import plan_sweeps
from implicit_em_studies.shared.protocol import folder_of, read_grids, trial_label
from implicit_em_studies.shared.report import Report, describe, forget, history_of, log_summary
from implicit_em_studies.shared.runs import Run, execute
from implicit_em_studies.shared.study import Part, Plan, Request, Study
from implicit_em_studies.shared.tables import records

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JudgedStudy(Study):
    """A study with verdicts.

    Args:
        package: package that has the report's template, ``report.md.j2``.
        experiments: the study's experiments by name.
        claims: what is judged.
        file: name of the file of a table or figure, of the ``{experiment}`` and its ``{name}``.
        shortened: settings of a quick trial.
    """

    package: str
    experiments: Mapping[str, Experiment]
    claims: Claims
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
        together = [
            name for name in known if name in {*asked, *request.found.get("experiments", ())}
        ]
        runs = self.runs(together, request.directory / "runs", request.conf, request.changes)
        trial = None
        if any(known[name].digest_among(runs) != known[name].protocol for name in together):
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
        """Plan the runs of experiments as ``plan_sweeps`` does; W&B groups them by experiment.

        The study's file has the sweeps. A sweep that is not in it is a file of ``experiment``.
        """
        file = folder_of(conf) / f"{self.name}.yaml"
        grids = read_grids(file) if file.exists() else {}
        names = [sweep for name in experiments for sweep in self.experiments[name].sweeps]
        sweeps = {name: grids.get(name, {"experiment": name}) for name in names}
        runs = plan_sweeps(sweeps, directory, conf, overrides)
        for run in runs:
            run.tags = [name for name, one in self.experiments.items() if one.runs_among([run])]
            run.group = next(n for n in run.tags if run.sweep in self.experiments[n].sweeps)
        return runs


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
        study = self.study
        experiments = {name: study.experiments[name] for name in self.names}
        measured: dict[str, Measured] = {}
        tables: dict[str, pd.DataFrame] = {}
        figures: dict[str, Callable[[], Figure]] = {}
        for name, one in experiments.items():
            with working(f"measuring {name}"):
                found = measured[name] = one.measure(one.runs_among(self.runs))
            file = partial(study.file.format, experiment=name)
            own = {file(name=key): found[key] for key in found if key not in one.unwritten}
            report.write_tables(own)
            for key, printed in one.printed.items():
                path = report.directory / "tables" / file(name=key)
                printed.write(found[key], path, report.trial)
            tables |= own
            figures |= {file(name=key): partial(one.pictures[key], found) for key in one.pictures}
        with working("drawing the figures"):
            report.write_figures(figures)
        claims, verdicts = [], ""
        if not report.trial:
            judged = study.claims.judge(measured)
            study.claims.write(judged, report.provenance, report.directory)
            print_rows("Verdicts", study.claims.in_short(judged))
            claims, verdicts = records(judged), study.claims.as_markdown(judged)
            tables |= {"verdicts": judged}
        page = report.write_page(
            study.package,
            experiments=experiments,
            measured=measured,
            claims=claims,
            verdicts=verdicts,
        )
        log_summary(self.runs[0].cfg, report.directory, tables, report.provenance, report.trial)
        log.info("Written to %s", page)
        return page
