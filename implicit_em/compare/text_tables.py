"""The tables of a part as text, for its report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from implicit_em.compare.matching import SIGNIFICANT
from implicit_em.compare.protocol import Protocol
from implicit_em.compare.wording import ahead_text, name_of, target_text


def matched_table(at: pd.DataFrame, protocol: Protocol, unit: str = "%") -> pd.DataFrame:
    """Return a matched table as text: a row a family, a column a density.

    Cells: mean ± deviation in per cent; ``*`` the best mean, ``+`` and ``−`` significantly better
    and worse than the reference; the number of seeds that have a value, where not all do.

    Args:
        at: from ``Results.at_density`` or ``Results.at_activity``.
        protocol: of the comparison.
        unit: of the targets; shares are shown in per cent.

    """
    cells: dict[str, dict[str, str]] = {}
    row: Any
    for row in at.itertuples():
        spread = "" if pd.isna(row.std) else f" ± {100 * row.std:.2f}"
        sign = ""
        if not pd.isna(row.p_holm) and row.p_holm < SIGNIFICANT:
            sign = " +" if row.ahead > 0 else " −"
        heading = target_text(row.target, unit)
        seeds = len(protocol.seeds)
        some = f" ({row.n} of {seeds})" if row.n < seeds else ""
        text = f"{100 * row.mean:.2f}{spread}{' *' if row.best else ''}{sign}{some}"
        cells.setdefault(name_of(row.family), {})[heading] = text
    return _families_by_density(cells, protocol.families)


def differences_table(at: pd.DataFrame, protocol: Protocol, unit: str = "%") -> pd.DataFrame:
    """Return how far each family is ahead of the reference, in points, as text."""
    cells: dict[str, dict[str, str]] = {}
    row: Any
    for row in at.dropna(subset="ahead").itertuples():
        heading = target_text(row.target, unit)
        cells.setdefault(name_of(row.family), {})[heading] = ahead_text(row)
    others = [family for family in protocol.families if family != protocol.reference]
    return _families_by_density(cells, others)


def _families_by_density(
    cells: Mapping[str, Mapping[str, str]], families: Sequence[str]
) -> pd.DataFrame:
    """Return texts by family and density as a table, in the order of both."""
    headings = {heading for row in cells.values() for heading in row}
    ordered = sorted(headings, key=lambda heading: float(heading.split()[0]))
    return pd.DataFrame(
        [
            {
                "family": name,
                **{heading: cells.get(name, {}).get(heading, "–") for heading in ordered},
            }
            for name in map(name_of, families)
        ]
    )


def mean_over_seeds(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return mean ± deviation over the seeds of each setting, as text."""
    rows = []
    for (family, settings), own in frame.groupby(["family", "settings"], sort=False):
        row = {"family": name_of(str(family)), "settings": settings, "n": str(len(own))}
        for column in columns:
            values = pd.to_numeric(own[column], errors="coerce").dropna().to_numpy()
            row[column.replace("_", " ")] = _mean_text(values)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_text(values: np.ndarray) -> str:
    if not len(values):
        return "–"
    alike = np.allclose(values, values[0], rtol=1e-12, atol=0)  # but for rounding, or one value
    return f"{values.mean():.4g}" + ("" if alike else f" ± {values.std(ddof=1):.2g}")
