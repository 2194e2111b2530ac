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
        module.__name__.rpartition(".")[2]: module.EXPERIMENT
        for module in (theorem, ablation, benchmark, dynamics, features)
    },
    claims=CLAIMS,
    file="{name}",
)
