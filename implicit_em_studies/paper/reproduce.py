"""The whole study from one call: runs, evidence, tables, figures, verdicts, report."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from implicit_em.config import CONF
from implicit_em.training.progress import working
from implicit_em_studies.paper import tables
from implicit_em_studies.paper.criteria import CLAIMS
from implicit_em_studies.paper.evidence import gather
from implicit_em_studies.paper.figures import PICTURES
from implicit_em_studies.paper.paper import EXPERIMENTS, PROTOCOL, TABLES
from implicit_em_studies.paper.report import Study, write_report
from implicit_em_studies.shared.judged import JudgedStudy
from implicit_em_studies.shared.pages import Report
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.summary_run import log_summary

log = logging.getLogger(__name__)

PAPER = Path("results/paper")


def reproduce(
    directory: str | Path = PAPER,
    experiments: Sequence[str] = (),
    overrides: Sequence[str] = (),
    workers: int | None = None,
    conf: str | Path = CONF,
) -> Path:
    """Run experiments of the paper and write the report, as ``JudgedStudy.run`` does."""
    return STUDY.run(directory, experiments, overrides, workers, conf)


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
    verdicts = STUDY.verdicts(report, evidence, experiments)
    page = write_report(report, Study(experiments, evidence, measured, verdicts))
    logged = measured if verdicts is None else measured | {"verdicts": verdicts}
    log_summary(runs[0].cfg, directory, logged, report.provenance, trial)
    log.info("Written to %s", page)
    return page


STUDY = JudgedStudy("reproduce", PAPER, EXPERIMENTS, PROTOCOL, CLAIMS, _report)
