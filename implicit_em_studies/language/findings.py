"""What the tables say, one sentence each; ``findings.md.j2`` has the words."""

import pandas as pd

from implicit_em_studies.language.protocol import REACHED
from implicit_em_studies.language.results import MEASURES, PRIMARY, Results, summed
from implicit_em_studies.shared.pages import sentences
from implicit_em_studies.shared.pairs import SIGNIFICANT

RIVAL = "l1"
"""Family that the reference has to beat at most of the L0."""


def findings(results: Results) -> list[str]:
    """Return what the tables say, one sentence each."""
    finals, controls, permuted = map(summed, (results.finals, results.controls, results.permuted))
    missed = finals[finals[REACHED] == 0]
    return sentences(
        "implicit_em_studies.language",
        "findings.md.j2",
        significant=SIGNIFICANT,
        reference=results.protocol.reference,
        rival=RIVAL,
        against_rival=_against_rival(results),
        measures={name: MEASURES[name].title for name in results.tests},
        matched={
            name: tests
            for name, tests in results.tests.items()
            if (tests.at["family"] == results.protocol.reference).any()
        },
        controls=_best(controls),
        permuted=_gaps(finals[finals["target"] == results.tuned_at], permuted),
        tuned_at=results.tuned_at,
        dead=finals.groupby("family", sort=False)["units_dead"].max(),
        stability=results.stability.set_index("family")["stability"].dropna(),
        aimed=int(finals["l0_target"].notna().sum()),
        missed=missed.groupby("family", sort=False).size(),
        diverged=results.tuning[results.tuning["ridge_fvu"].isna()].groupby("family").size(),
    )


def _against_rival(results: Results) -> dict[str, list[str]]:
    """Return at which L0 the reference is better, worse, or neither, by the primary measure."""
    tests = results.tests[PRIMARY].tests
    own = tests[tests["family"] == RIVAL]
    decided = own["p_holm"] < SIGNIFICANT
    kinds = {
        "better": decided & (own["ahead"] < 0),
        "worse": decided & (own["ahead"] > 0),
        "undecided": ~decided,
    }
    return {
        kind: [str(target) for target in own.loc[rows, "target"]] for kind, rows in kinds.items()
    }


def _best(controls: pd.DataFrame) -> pd.DataFrame:
    """Return the control that explains most of the variance at each L0; empty without controls."""
    if controls.empty:
        return controls
    means = controls.groupby(["target", "family"], sort=False)[PRIMARY].mean().reset_index()
    return means.loc[means.groupby("target")[PRIMARY].idxmax()]


def _gaps(finals: pd.DataFrame, permuted: pd.DataFrame) -> pd.DataFrame:
    """Return the variance explained on the model, and on the one with permuted weights."""
    if permuted.empty:
        return pd.DataFrame()
    means = [table.groupby("family", sort=False)[PRIMARY].mean() for table in (finals, permuted)]
    return pd.concat(means, axis=1, keys=["model", "permuted"], join="inner")
