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
from implicit_em.config import CONF
from implicit_em.training.progress import working
from implicit_em_studies.shared import provenance, study_directory
from implicit_em_studies.shared.claims import Claims
from implicit_em_studies.shared.command_line import command
from implicit_em_studies.shared.execution import execute
from implicit_em_studies.shared.experiment import Evidence, Experiment
from implicit_em_studies.shared.pages import Report, forget
from implicit_em_studies.shared.protocol import digest, trial_label
from implicit_em_studies.shared.runs import Run, plan_sweeps
from implicit_em_studies.shared.summary_run import log_summary
from implicit_em_studies.shared.tables import records

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class JudgedStudy:
    """A study with verdicts.

    Args:
        name: its command.
        package: package that has the report's template.
        directory: directory of the protocol's results.
        experiments: its experiments by name.
        protocol: the digest of each sweep's runs.
        claims: what is judged.
        evidence: function that makes of all that was measured what the criteria judge.
        file: name of the file of a table or figure, of the ``{experiment}`` and its ``{name}``.
    """

    name: str
    package: str
    directory: Path
    experiments: Mapping[str, Experiment]
    protocol: Mapping[str, str]
    claims: Claims[Any]
    evidence: Callable[[Evidence], Any] = dict
    file: str = "{experiment}_{name}"

    def run(
        self,
        directory: str | Path,
        experiments: Sequence[str] = (),
        overrides: Sequence[str] = (),
        workers: int | None = None,
        conf: str | Path = CONF,
    ) -> Path:
        """Run experiments and write the report; return its path.

        Complete runs are reused, and a stopped study goes on. Experiments that the directory holds
        already stay in its report. Settings other than the protocol's make a trial: everything says
        so, and there are no verdicts.

        Args:
            experiments: names of experiments; all if none is named.
            overrides: settings of all runs in Hydra's notation, as ``trainer.max_epochs=2``.
            workers: number of stacks that train at a time; ``None`` for one per core.

        Raises:
            ConfigError: if a setting is refused, or the directory holds a study of other settings.
            RunError: if runs failed.
        """
        directory, conf = Path(directory), Path(conf)
        known = self.experiments
        if unknown := [name for name in experiments if name not in known]:
            raise ConfigError(f"{unknown[0]}: no such experiment; allowed: {', '.join(known)}")
        experiments = experiments or list(known)
        study_directory.refuse_arguments(workers, conf, "train.yaml")
        conf = conf.resolve()
        file = directory / "study.json"
        note = study_directory.read_note(file)
        together = [n for n in known if n in experiments or n in note.get("experiments", ())]
        runs = self.plan(together, directory / "runs", conf, overrides)
        trial = None
        if not self.is_protocol(together, runs):
            trial = trial_label(overrides) or "TRIAL with changed configuration files"
        study_directory.refuse_directory(directory, self.directory, note, trial)
        runs[0].spec.build_data()  # refuses data that cannot be read
        with study_directory.alone(directory, "study"):
            write_json(file, {"trial": trial, "experiments": note.get("experiments", [])})
            execute(runs, workers, ["trial"] if trial else [])
            write_json(file, {"trial": trial, "experiments": together})
            forget(directory, "report.*", "verdicts.*")
            folders = {"directory": (directory, self.directory), "conf": (conf, CONF)}
            typed = command(self.name, [*together, *overrides], **folders)
            criteria = inspect.getfile(next(iter(self.claims.by_key.values())).judge)
            history = provenance.history_of(Path(criteria))
            origin = provenance.describe(typed, runs, criteria=history)
            return self._write(Report(directory, origin, trial), runs, together)

    def plan(
        self,
        experiments: Sequence[str],
        directory: Path,
        conf: Path,
        overrides: Sequence[str] = (),
    ) -> list[Run]:
        """Plan the runs of experiments as ``plan_sweeps`` does; W&B groups them by experiment."""
        sweeps = {name: {"experiment": name} for name in self._sweeps(experiments)}
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

    def _write(self, report: Report, runs: Sequence[Run], names: Sequence[str]) -> Path:
        """Measure, draw, judge and write the report of complete runs; a trial has no verdicts."""
        experiments = {name: self.experiments[name] for name in names}
        measured = {}
        for name, one in experiments.items():
            own = [run for run in runs if {*run.sweeps} & {*one.sweeps}]
            with working(f"measuring {name}"):
                measured[name] = one.measure(own)
        tables = self._by_file({n: one.tables(measured[n]) for n, one in experiments.items()})
        report.write_tables(tables)
        for file, shown in self._by_file({n: one.shown for n, one in experiments.items()}).items():
            if shown.names:
                shown.write(tables[file], report.directory / "tables" / file, report.trial)
        with working("drawing the figures"):
            report.write_figures(
                self._by_file({n: one.drawn(measured[n]) for n, one in experiments.items()})
            )
        claims, verdicts = [], ""
        if not report.trial:
            found = self.claims.judge(self.evidence(measured), names)
            self.claims.write(found, report.provenance, report.directory)
            print_rows("Verdicts", self.claims.in_short(found))
            claims, verdicts = records(found), self.claims.as_markdown(found)
            tables |= {"verdicts": found}
        page = report.write_page(
            self.package,
            experiments=experiments,
            measured=measured,
            claims=claims,
            verdicts=verdicts,
            amendments=self.claims.amendments,
        )
        log_summary(runs[0].cfg, report.directory, tables, report.provenance, report.trial)
        log.info("Written to %s", page)
        return page

    def _by_file(self, found: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
        """Return what experiments have by name, by the name of its file."""
        return {
            self.file.format(experiment=experiment, name=name): one
            for experiment, own in found.items()
            for name, one in own.items()
        }

    def _sweeps(self, experiments: Sequence[str]) -> list[str]:
        return [sweep for name in experiments for sweep in self.experiments[name].sweeps]
