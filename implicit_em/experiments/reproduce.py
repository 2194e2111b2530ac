"""The whole study from one call: runs, evidence, tables, figures, verdicts, report."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from implicit_em.base.errors import ConfigError
from implicit_em.base.files import write_json
from implicit_em.base.tables import print_rows
from implicit_em.config import CONF
from implicit_em.experiments import criteria, tables
from implicit_em.experiments.evidence import gather
from implicit_em.experiments.figures import PICTURES
from implicit_em.experiments.paper import TABLES
from implicit_em.experiments.plan import EXPERIMENTS, is_protocol, plan
from implicit_em.experiments.report import Study, write_report
from implicit_em.experiments.verdicts import judge, write_verdicts
from implicit_em.studies import provenance, study_directory
from implicit_em.studies.command_line import command
from implicit_em.studies.execution import execute
from implicit_em.studies.pages import Report, forget
from implicit_em.studies.protocol import trial_label
from implicit_em.studies.runs import Run
from implicit_em.studies.summary_run import log_summary
from implicit_em.training.progress import working

log = logging.getLogger(__name__)

PAPER = Path("results/paper")


def reproduce(
    directory: str | Path = PAPER,
    experiments: Sequence[str] = (),
    overrides: Sequence[str] = (),
    workers: int | None = None,
    conf: str | Path = CONF,
) -> Path:
    """Run experiments of the paper and write the report; return its path.

    Complete runs are reused, and a stopped study goes on. Experiments that the directory holds
    already stay in its report. Settings other than the paper's make a trial: everything says so,
    and there are no verdicts.

    Args:
        experiments: keys of ``EXPERIMENTS``; all if none is named.
        overrides: settings of all runs in Hydra's notation, as ``trainer.max_epochs=2``.
        workers: number of stacks that train at a time; ``None`` for one per core.

    Raises:
        ConfigError: if a setting is refused, or the directory holds a study of other settings.
        RunError: if runs failed.
    """
    directory, conf = Path(directory), Path(conf)
    if unknown := [name for name in experiments if name not in EXPERIMENTS]:
        raise ConfigError(f"{unknown[0]}: no such experiment; allowed: {', '.join(EXPERIMENTS)}")
    experiments = experiments or list(EXPERIMENTS)
    study_directory.refuse_arguments(workers, conf, "train.yaml")
    conf = conf.resolve()
    file = directory / "study.json"
    note = study_directory.read_note(file)
    together = [n for n in EXPERIMENTS if n in experiments or n in note.get("experiments", ())]
    runs = plan(together, directory / "runs", conf, overrides)
    trial = None
    if not is_protocol(together, runs):
        trial = trial_label(overrides) or "TRIAL with changed configuration files"
    study_directory.refuse_directory(directory, PAPER, note, trial)
    runs[0].spec.build_data()  # refuses data that cannot be read
    with study_directory.alone(directory, "study"):
        write_json(file, {"trial": trial, "experiments": note.get("experiments", [])})
        execute(runs, workers, ["trial"] if trial else [])
        write_json(file, {"trial": trial, "experiments": together})
        forget(directory, "report.*", "verdicts.*")
        folders = {"directory": (directory, PAPER), "conf": (conf, CONF)}
        typed = command("experiments", [*together, *overrides], **folders)
        history = provenance.history_of(Path(criteria.__file__))
        origin = provenance.describe(typed, runs, criteria=history)
        return _report(Report(directory, origin, trial), runs, together)


def _report(report: Report, runs: Sequence[Run], experiments: Sequence[str]) -> Path:
    directory, trial = report.directory, report.trial
    with working("measuring the trained models"):
        evidence = gather(runs, experiments)
    measured = {
        name: tables.measure(name, evidence)
        for name, published in TABLES.items()
        if published.experiment in experiments
    }
    for name, cells in measured.items():
        tables.write(name, cells, directory / "tables", trial)
    beyond = [name for name, table in tables.BEYOND.items() if table.experiment in experiments]
    report.write_tables({name: getattr(evidence, name) for name in beyond})
    with working("drawing the figures"):
        drawn = {
            n: partial(p.draw, evidence) for n, p in PICTURES.items() if p.experiment in experiments
        }
        report.write_figures(drawn)
    verdicts = None if trial else judge(evidence, experiments)
    if verdicts is not None:
        write_verdicts(verdicts, report.provenance, directory)
        print_rows("Verdicts", verdicts[["statement", "paper", "measured", "verdict"]])
    page = write_report(report, Study(experiments, evidence, measured, verdicts))
    logged = measured if verdicts is None else measured | {"verdicts": verdicts}
    log_summary(runs[0].cfg, directory, logged, report.provenance, trial)
    log.info("Written to %s", page)
    return page
