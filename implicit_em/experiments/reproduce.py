"""The whole study: runs, evidence, tables, figures, verdicts and report."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from implicit_em.base.errors import ConfigError
from implicit_em.base.files import write_json
from implicit_em.base.tables import print_rows
from implicit_em.config.spec import RunSpec
from implicit_em.experiments import criteria, figures, tables
from implicit_em.experiments.evidence import gather
from implicit_em.experiments.figures import PICTURES
from implicit_em.experiments.paper import TABLES
from implicit_em.experiments.plan import EXPERIMENTS, is_protocol, plan
from implicit_em.experiments.report import write_report
from implicit_em.experiments.verdicts import judge, write_verdicts
from implicit_em.studies import provenance, study_directory
from implicit_em.studies.execution import execute
from implicit_em.studies.runs import Run
from implicit_em.studies.summary_run import log_summary
from implicit_em.training.directory import RunDirectory
from implicit_em.training.progress import working

log = logging.getLogger(__name__)

PAPER = Path("results/paper")


def reproduce(
    directory: str | Path = PAPER,
    experiments: Sequence[str] = tuple(EXPERIMENTS),
    overrides: Sequence[str] = (),
    workers: int | None = None,
    conf: str | Path = "conf",
) -> Path:
    """Run experiments of the paper and write what comes out; gives the report's path.

    Runs that are complete are reused, so that a study that was stopped goes on, and experiments
    that the directory holds already stay in its report. With settings other than the paper's,
    everything is labelled as a trial, and no verdicts are given.

    Args:
        directory: where runs, tables, figures, verdicts and report go.
        experiments: keys of ``EXPERIMENTS``.
        overrides: settings in Hydra's notation, as ``trainer.max_epochs=2``.
        workers: stacks of runs that train at a time; the number of cores if not given.
        conf: the configuration files.

    Raises:
        ConfigError: if a setting cannot be, or the directory belongs to a study of other settings.
        RunError: if runs failed.

    """
    directory, conf = Path(directory), Path(conf)
    if unknown := [name for name in experiments if name not in EXPERIMENTS]:
        raise ConfigError(f"{unknown[0]}: no such experiment; allowed: {', '.join(EXPERIMENTS)}")
    study_directory.refuse_arguments(workers, conf, "train.yaml")
    note = directory / "study.json"
    there = study_directory.read_note(note)
    together = [n for n in EXPERIMENTS if n in experiments or n in there.get("experiments", ())]
    runs = plan(together, directory / "runs", conf, overrides)
    trial = None if is_protocol(together, runs) else _trial(overrides)
    study_directory.refuse_directory(directory, PAPER, there, trial)
    RunSpec.of(runs[0].cfg).build_data()
    with study_directory.alone(directory, "study"):
        write_json(note, {"trial": trial, "experiments": there.get("experiments", [])})
        execute(runs, workers, ["trial"] if trial else [], experiments=EXPERIMENTS)
        write_json(note, {"trial": trial, "experiments": together})
        return _report(directory, runs, together, overrides, trial)


def _trial(overrides: Sequence[str]) -> str:
    """Return the label of a study of other settings."""
    return study_directory.label(overrides) or "TRIAL with changed configuration files"


def _command(directory: Path, experiments: Sequence[str], overrides: Sequence[str]) -> str:
    where = [] if directory == PAPER else ["--directory", str(directory)]
    return shlex.join(["python", "-m", "implicit_em.experiments", *experiments, *overrides, *where])


def _report(
    directory: Path,
    runs: Sequence[Run],
    experiments: Sequence[str],
    overrides: Sequence[str],
    trial: str | None,
) -> Path:
    for old in ("report.md", "report.html", "verdicts.json", "verdicts.md"):
        (directory / old).unlink(missing_ok=True)  # none stays beside figures of another time
    with working("measuring the trained models"):
        evidence = gather(runs, experiments)
    origin = provenance.describe(
        _command(directory, experiments, overrides),
        [RunDirectory(run.directory).read_metrics() or {} for run in runs],
        criteria=provenance.history_of(Path(criteria.__file__)),
    )
    measured = {
        name: tables.measure(name, evidence)
        for name, published in TABLES.items()
        if published.experiment in experiments
    }
    for name, cells in measured.items():
        tables.write(name, cells, directory / "tables", trial)
    for name, table in tables.BEYOND.items():
        if table.experiment in experiments:
            tables.write_beyond(name, getattr(evidence, name), directory / "tables", trial)
    with working("drawing the figures"):
        for name, picture in PICTURES.items():
            if picture.experiment in experiments:
                figures.save(name, evidence, directory / "figures", trial)
    verdicts = None if trial else judge(evidence, experiments)
    if verdicts is not None:
        write_verdicts(verdicts, origin, directory)
        print_rows("Verdicts", verdicts[["statement", "paper", "measured", "verdict"]])
    page = write_report(directory, experiments, evidence, measured, verdicts, origin, trial)
    log_summary(runs[0].cfg, directory, measured, verdicts, origin, trial)
    log.info("Written to %s", page)
    return page
