"""The study of the paper."""

from pathlib import Path

from implicit_em_studies.paper import ablation, benchmark, dynamics, features, theorem
from implicit_em_studies.paper.criteria import CLAIMS
from implicit_em_studies.paper.evidence import Evidence
from implicit_em_studies.paper.paper import PROTOCOL
from implicit_em_studies.shared.judged import JudgedStudy

MODULES = (theorem, ablation, benchmark, dynamics, features)
EXPERIMENTS = {one.__name__.rpartition(".")[2]: one.EXPERIMENT for one in MODULES}
"""The experiments, each by the name of its module."""
STUDY = JudgedStudy(
    name="reproduce",
    directory=Path("results/paper"),
    purpose="Reproduce the paper: runs, tables, figures, verdicts and a report.",
    package="implicit_em_studies.paper",
    experiments=EXPERIMENTS,
    protocol=PROTOCOL,
    claims=CLAIMS,
    evidence=Evidence.of,
    file="{name}",
)
