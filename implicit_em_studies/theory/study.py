"""The whole study from one call."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from implicit_em.config import CONF
from implicit_em.training.progress import working
from implicit_em_studies.shared.experiment import Experiment
from implicit_em_studies.shared.judged import JudgedStudy
from implicit_em_studies.shared.pages import Report
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.summary_run import log_summary
from implicit_em_studies.shared.tables import records
from implicit_em_studies.theory import anomaly, depth, explicit_em, lse, reconstruction, volume
from implicit_em_studies.theory.criteria import CLAIMS
from implicit_em_studies.theory.protocol import PROTOCOL

log = logging.getLogger(__name__)

THEORY = Path("results/theory")
QUICK = ("trainer.max_epochs=3", "seed=1")
"""Settings of a quick trial."""
EXPERIMENTS: dict[str, Experiment] = {
    "volume": volume.EXPERIMENT,
    "explicit_em": explicit_em.EXPERIMENT,
    "depth": depth.EXPERIMENT,
    "reconstruction": reconstruction.EXPERIMENT,
    "lse": lse.EXPERIMENT,
    "anomaly": anomaly.EXPERIMENT,
}


def study(
    directory: str | Path = THEORY,
    experiments: Sequence[str] = (),
    overrides: Sequence[str] = (),
    workers: int | None = None,
    conf: str | Path = CONF,
    quick: bool = False,
) -> Path:
    """Run experiments and write the report, as ``JudgedStudy.run`` does.

    A ``quick`` trial has settings of its own before ``overrides``, and by default a directory of
    its own.
    """
    directory = Path(directory)
    if quick:
        overrides = [*QUICK, *overrides]
        if directory == THEORY:
            directory = THEORY.with_name(f"{THEORY.name}-quick")
    return STUDY.run(directory, experiments, overrides, workers, conf)


def _report(report: Report, runs: Sequence[Run], experiments: Sequence[str]) -> Path:
    evidence = {}
    for name in experiments:
        own = [run for run in runs if {*run.sweeps} & {*STUDY.experiments[name]}]
        with working(f"measuring {name}"):
            evidence[name] = EXPERIMENTS[name].measure(own)
    tables = {f"{n}_{key}": table for n in experiments for key, table in evidence[n].items()}
    report.write_tables(tables)
    with working("drawing the figures"):
        report.write_figures(
            {
                f"{name}_{key}": partial(picture.draw, evidence[name])
                for name in experiments
                for key, picture in EXPERIMENTS[name].pictures.items()
            }
        )
    verdicts = STUDY.verdicts(report, evidence, experiments)
    page = report.write_page(
        "implicit_em_studies.theory",
        experiments={name: EXPERIMENTS[name] for name in experiments},
        evidence=evidence,
        claims=[] if verdicts is None else records(verdicts),
        verdicts="" if verdicts is None else CLAIMS.as_markdown(verdicts),
        amendments=CLAIMS.amendments,
    )
    logged = tables if verdicts is None else tables | {"verdicts": verdicts}
    log_summary(runs[0].cfg, report.directory, logged, report.provenance, report.trial)
    log.info("Written to %s", page)
    return page


STUDY = JudgedStudy(
    "theory",
    THEORY,
    {name: [f"theory/{s}" for s in one.sweeps] for name, one in EXPERIMENTS.items()},
    PROTOCOL,
    CLAIMS,
    _report,
)
