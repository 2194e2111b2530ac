"""The whole study from one call."""

from collections.abc import Sequence
from pathlib import Path

from implicit_em.config import CONF
from implicit_em_studies.paper import ablation, benchmark, dynamics, features, theorem
from implicit_em_studies.paper.criteria import CLAIMS
from implicit_em_studies.paper.evidence import Evidence
from implicit_em_studies.paper.paper import PROTOCOL
from implicit_em_studies.shared.judged import JudgedStudy

PAPER = Path("results/paper")
STUDY = JudgedStudy(
    name="reproduce",
    package="implicit_em_studies.paper",
    directory=PAPER,
    experiments={
        "theorem": theorem.EXPERIMENT,
        "ablation": ablation.EXPERIMENT,
        "benchmark": benchmark.EXPERIMENT,
        "dynamics": dynamics.EXPERIMENT,
        "features": features.EXPERIMENT,
    },
    protocol=PROTOCOL,
    claims=CLAIMS,
    evidence=Evidence.of,
    file="{name}",
)


def reproduce(
    directory: str | Path = PAPER,
    experiments: Sequence[str] = (),
    overrides: Sequence[str] = (),
    workers: int | None = None,
    conf: str | Path = CONF,
) -> Path:
    """Run experiments of the paper and write the report, as ``JudgedStudy.run`` does."""
    return STUDY.run(directory, experiments, overrides, workers, conf)
