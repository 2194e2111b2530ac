"""The whole study from one call."""

from collections.abc import Sequence
from pathlib import Path

from implicit_em.config import CONF
from implicit_em_studies.shared.judged import JudgedStudy
from implicit_em_studies.theory import anomaly, depth, explicit_em, lse, reconstruction, volume
from implicit_em_studies.theory.criteria import CLAIMS
from implicit_em_studies.theory.protocol import PROTOCOL

THEORY = Path("results/theory")
QUICK = ("trainer.max_epochs=3", "seed=1")
"""Settings of a quick trial."""
STUDY = JudgedStudy(
    name="theory",
    package="implicit_em_studies.theory",
    directory=THEORY,
    experiments={
        "volume": volume.EXPERIMENT,
        "explicit_em": explicit_em.EXPERIMENT,
        "depth": depth.EXPERIMENT,
        "reconstruction": reconstruction.EXPERIMENT,
        "lse": lse.EXPERIMENT,
        "anomaly": anomaly.EXPERIMENT,
    },
    protocol=PROTOCOL,
    claims=CLAIMS,
)


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
