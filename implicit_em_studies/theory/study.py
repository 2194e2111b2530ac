"""The study of the theory's open questions."""

from pathlib import Path

from implicit_em_studies.shared.judged import JudgedStudy
from implicit_em_studies.theory import explicit_em, lse, on_or_off, volume
from implicit_em_studies.theory.criteria import CLAIMS

STUDY = JudgedStudy(
    name="theory",
    directory=Path("results/theory"),
    purpose="Answer the theory's open questions: runs, tables, figures and verdicts.",
    quick="a trial of few epochs and one seed, into a directory of its own",
    shortened=("trainer.max_epochs=3", "seed=1"),
    package="implicit_em_studies.theory",
    experiments={
        module.__name__.rpartition(".")[2]: module.EXPERIMENT
        for module in (volume, explicit_em, lse, on_or_off)
    },
    claims=CLAIMS,
)
