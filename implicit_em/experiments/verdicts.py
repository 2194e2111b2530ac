"""The verdicts: criteria applied to the evidence, as a table and as files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from implicit_em.base.files import whole, write_json
from implicit_em.base.tables import markdown_table
from implicit_em.experiments.criteria import AMENDMENTS, CLAIMS
from implicit_em.experiments.evidence import Evidence
from implicit_em.studies.tables import records


def judge(evidence: Evidence, experiments: Sequence[str]) -> pd.DataFrame:
    """Return the verdict on each claim of the experiments, with the estimate that decided."""
    rows = []
    for key, claim in CLAIMS.items():
        if claim.experiment not in experiments:
            continue
        finding = claim.judge(evidence)
        rows.append(
            {
                "claim": key,
                "experiment": claim.experiment,
                "statement": claim.statement,
                "criterion": claim.criterion,
                "paper": claim.paper,
                "measured": finding.measured,
                **asdict(finding.estimate),
                "verdict": finding.outcome,
                "why": finding.why,
                "amended": AMENDMENTS.get(key),
            }
        )
    return pd.DataFrame(rows)


def write_verdicts(verdicts: pd.DataFrame, provenance: Mapping[str, str], directory: Path) -> None:
    """Write ``verdicts.json``, with null for a missing number, and ``verdicts.md``."""
    content = {"provenance": provenance, "verdicts": records(verdicts)}
    write_json(directory / "verdicts.json", content)
    with whole(directory / "verdicts.md") as temporary:
        temporary.write_text(as_markdown(verdicts) + "\n")


def as_markdown(verdicts: pd.DataFrame) -> str:
    """Return the verdicts as a table: claim, paper, measured, verdict."""
    shown = verdicts[["statement", "paper", "measured", "verdict"]].copy()
    shown["verdict"] = shown["verdict"].map("**{}**".format)
    shown.columns = pd.Index(["claim", "paper", "measured [95 % interval]", "verdict"])
    return markdown_table(shown.map(lambda cell: cell.replace("|", "&#124;")))
