"""The study of the theory's open questions."""

from pathlib import Path

from implicit_em_studies.shared.judged import JudgedStudy
from implicit_em_studies.theory import (
    anomaly,
    dead_units,
    depth,
    explicit_em,
    lse,
    on_or_off,
    reconstruction,
    volume,
)
from implicit_em_studies.theory.criteria import CLAIMS
from implicit_em_studies.theory.protocol import PROTOCOL

MODULES = (volume, explicit_em, depth, reconstruction, lse, anomaly, on_or_off, dead_units)
EXPERIMENTS = {one.__name__.rpartition(".")[2]: one.EXPERIMENT for one in MODULES}
"""The experiments, each by the name of its module."""
STUDY = JudgedStudy(
    name="theory",
    directory=Path("results/theory"),
    purpose="Answer the theory's open questions: runs, tables, figures and verdicts.",
    quick="a trial of few epochs and one seed, into a directory of its own",
    shortened=("trainer.max_epochs=3", "seed=1"),
    package="implicit_em_studies.theory",
    experiments=EXPERIMENTS,
    protocol=PROTOCOL,
    claims=CLAIMS,
)
