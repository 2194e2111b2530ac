"""The comparison: grids, choice, finals, measurements, tables, figures and report of each part."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from implicit_em.compare.figures import at_target
from implicit_em.compare.measuring import measure_all, stabilities, trained, tuning_table
from implicit_em.compare.protocol import Protocol, is_of_the_protocol, read_protocol
from implicit_em.compare.report import shown_density, write_figures, write_report, write_tables
from implicit_em.compare.results import Results, choose, findings
from implicit_em.compare.stages import (
    Stages,
    check_all,
    compose_settings,
    digest,
    has_diverged,
)
from implicit_em.config import to_plain
from implicit_em.errors import RunError
from implicit_em.experiments import provenance, trials
from implicit_em.experiments.evidence import matrices_of
from implicit_em.experiments.execution import execute
from implicit_em.experiments.study import Run
from implicit_em.experiments.summary_run import log_summary
from implicit_em.files import write_json
from implicit_em.fitting import load_data
from implicit_em.rundir import RunDirectory
from implicit_em.sweeps.stacked import cores
from implicit_em.terminal import working

log = logging.getLogger(__name__)

COMPARISON = Path("results/compare")


def compare(
    directory: str | Path = COMPARISON,
    parts: Sequence[str] = (),
    changes: Sequence[str] = (),
    workers: int | None = None,
    conf: str | Path = "conf",
) -> list[Path]:
    """Run parts of the comparison and write what comes out; gives the reports' paths.

    Runs and measurements that are complete are reused, also by other parts. With settings other
    than the protocol's, everything is labelled as a trial.

    Args:
        directory: where runs and, in a folder a data set and part, tables, figures and report go.
        parts: names of data sets and parts; those of a kind that is not named are all meant.
        changes: ``KEY=VALUE``, of the protocol or, in Hydra's notation, of all runs.
        workers: stacks that train, or processes that measure, at a time; the number of cores if not
            given.
        conf: the configuration files.

    Raises:
        ConfigError: if a setting cannot be, or the directory belongs to a study of other settings.
        RunError: if runs failed, or no setting comes near any density.

    """
    directory, conf = Path(directory), Path(conf)
    trials.refuse_arguments(workers, conf, "compare.yaml")
    protocol = read_protocol(conf, [change for change in changes if is_of_the_protocol(change)])
    overrides = [change for change in changes if not is_of_the_protocol(change)]
    chosen = protocol.chosen(parts)
    trial = trials.label(changes)
    note = directory / "comparison.json"
    trials.refuse_directory(directory, COMPARISON, trials.read_note(note), trial)
    prepared = _prepare(protocol, chosen, directory, conf, overrides, trial)
    with trials.alone(directory, "comparison"):
        write_json(note, {"trial": trial})
        command = _command(directory, parts, changes)
        return [part.run(command, workers or cores()) for part in prepared]


def _prepare(
    protocol: Protocol,
    chosen: Sequence[tuple[str, str]],
    directory: Path,
    conf: Path,
    overrides: Sequence[str],
    trial: str | None,
) -> list["_Part"]:
    """Compose and check the runs of all parts."""
    prepared = []
    for dataset in dict.fromkeys(dataset for dataset, _ in chosen):
        log.info("%s: composing the runs", dataset)
        families, controls = (
            compose_settings(names, dataset, conf, overrides)
            for names in (protocol.families, protocol.controls)
        )
        for part in (part for of, part in chosen if of == dataset):
            runs = directory / dataset / "runs"
            stages = Stages(protocol, part, runs, families, controls)
            prepared.append(_Part(stages, dataset, directory / dataset / part, conf, trial))
    order = list(chosen)
    return sorted(prepared, key=lambda part: order.index((part.dataset, part.stages.part)))


def _command(directory: Path, parts: Sequence[str], changes: Sequence[str]) -> str:
    where = [] if directory == COMPARISON else ["--directory", str(directory)]
    return shlex.join(["python", "-m", "implicit_em.compare", *parts, *changes, *where])


class _Part:
    """One data set and part; nothing is written before all of them are known to be possible."""

    def __init__(
        self, stages: Stages, dataset: str, directory: Path, conf: Path, trial: str | None
    ) -> None:
        self.stages, self.dataset, self.directory = stages, dataset, directory
        self.conf, self.trial = conf, trial
        self.protocol, self.part = stages.protocol, stages.part
        self.grids, self.controls = stages.grids(), stages.controls()
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
        finals = [run for run in finals if not has_diverged(run)]
        with working("measuring finals and controls"):
            results = Results(
                self.protocol,
                tuning,
                chosen,
                measure_all(finals, workers),
                measure_all(self.controls, workers),
                stabilities(finals),
            )
        return self._report(results, finals, command)

    def _train(self, runs: Sequence[Run], workers: int) -> None:
        """Train what is not complete; that a setting diverges is a result."""
        tags = [self.dataset, self.part, *(["trial"] if self.trial else [])]
        waiting = [run for run in runs if not has_diverged(run)]
        try:
            execute(waiting, workers, tags, family=lambda run: run.places[0][0])
        except RunError:
            if not all(map(_came_to_an_end, waiting)):
                raise

    def _report(self, results: Results, finals: Sequence[Run], command: str) -> Path:
        for old in ("report.md", "report.html", "findings.json"):
            (self.directory / old).unlink(missing_ok=True)  # none stays beside other figures
        tables = write_tables(results, self.directory / "tables", self.trial)
        data = load_data(to_plain(finals[0].cfg))
        rows = _rows_shown(results, finals)
        with working("drawing the figures"):
            write_figures(results, rows, data.sample_shape, self.directory / "figures", self.trial)
        origin = provenance.describe(
            command,
            [
                RunDirectory(run.directory).read_metrics() or {}
                for run in (*self.grids, *finals, *self.controls)
            ],
            protocol=provenance.history_of(self.conf.resolve() / "compare.yaml"),
        )
        mark = digest(self.protocol, [*self.stages.settings, *self.stages.control_settings])
        page = write_report(
            results, self.directory, self.dataset, self.part, mark, origin, self.trial
        )
        log_summary(finals[0].cfg, self.directory, tables, None, origin, self.trial)
        for sentence in findings(results):
            log.info("%s", sentence)
        log.info("Written to %s", page)
        return page


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
