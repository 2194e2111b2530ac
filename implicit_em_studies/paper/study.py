"""The study of the paper."""

from pathlib import Path

from implicit_em_studies.paper import ablation, benchmark, dynamics, features, theorem
from implicit_em_studies.paper.criteria import CLAIMS
from implicit_em_studies.shared.judged import JudgedStudy

STUDY = JudgedStudy(
    name="reproduce",
    directory=Path("results/paper"),
    purpose="Reproduce the paper: runs, tables, figures, verdicts and a report.",
    package="implicit_em_studies.paper",
    experiments={
        "theorem": theorem.EXPERIMENT,
        "ablation": ablation.EXPERIMENT,
        "benchmark": benchmark.EXPERIMENT,
        "dynamics": dynamics.EXPERIMENT,
        "features": features.EXPERIMENT,
    },
    claims=CLAIMS,
    file="{name}",
)
