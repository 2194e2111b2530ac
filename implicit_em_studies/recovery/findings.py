"""What the tables say, one sentence each; ``findings.md.j2`` has the words."""

import pandas as pd

from implicit_em_studies.recovery.results import FOUND, Results
from implicit_em_studies.shared.pages import sentences
from implicit_em_studies.shared.pairs import SIGNIFICANT


def findings(results: Results) -> list[str]:
    """Return what the tables say, one sentence each."""
    protocol = results.protocol
    controls = results.controls.groupby(["cell", "family"], sort=False)[FOUND].mean()
    diverged = results.tuning[results.tuning["ridge_fvu"].isna()]
    aimed = results.finals.dropna(subset="l0_target")
    missed = aimed[aimed["l0_reached"] != 1]
    return sentences(
        "implicit_em_studies.recovery",
        "findings.md.j2",
        significant=SIGNIFICANT,
        reference=protocol.reference,
        matched={criterion: results.tests(criterion) for criterion in protocol.criteria},
        best_control=controls.idxmax() if len(controls) else None,
        controls=controls,
        gaps=_gaps(results),
        aimed=len(aimed),
        missed=missed.groupby("family", sort=False).size(),
        diverged=diverged.groupby("family", sort=False).size(),
    )


def _gaps(results: Results) -> pd.Series:
    """Return how much each family's mean share over cells falls with the blind choice."""
    truth, blind = (
        results.finals_of(criterion).groupby(["family", "cell"], sort=False)[FOUND].mean()
        for criterion in ("truth", "blind")
    )
    return (truth - blind).groupby("family", sort=False).mean().dropna()
