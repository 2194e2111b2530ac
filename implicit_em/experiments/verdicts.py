"""The criteria applied to the evidence, as rows and as a file."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from implicit_em.experiments.criteria import AMENDMENTS, CLAIMS
from implicit_em.experiments.evidence import Evidence
from implicit_em.files import write_json


def judge(evidence: Evidence, experiments: Sequence[str]) -> pd.DataFrame:
    """Return one row a claim of the experiments.

    Columns: ``claim`` (its key), ``experiment``, ``statement``, ``criterion``, ``paper``,
    ``measured`` (text), ``value``, ``low``, ``high`` (the 95 % interval; null for what is exact),
    ``n``, ``p_value``, ``verdict``, ``why`` and ``amended``.
    """
    rows = []
    for key, claim in CLAIMS.items():
        if claim.experiment not in experiments:
            continue
        finding = claim.judge(evidence)
        estimate = finding.estimate
        rows.append(
            {
                "claim": key,
                "experiment": claim.experiment,
                "statement": claim.statement,
                "criterion": claim.criterion,
                "paper": claim.paper,
                "measured": finding.measured,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
                "p_value": estimate.p_value,
                "verdict": finding.outcome,
                "why": finding.why,
                "amended": AMENDMENTS.get(key),
            }
        )
    return pd.DataFrame(rows)


def write_verdicts(verdicts: pd.DataFrame, provenance: dict[str, str], path: Path) -> None:
    """Write ``verdicts.json``; what has no number is null."""
    cells = verdicts.astype(object)
    rows = cells.where(cells.notna(), None).to_dict("records")
    write_json(path, {"provenance": provenance, "verdicts": rows})
