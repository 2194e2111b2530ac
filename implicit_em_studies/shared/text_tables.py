"""Tables of tuned families as text, for a report."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from implicit_em_studies.shared.families import name_of
from implicit_em_studies.shared.pairs import SIGNIFICANT, ahead_text, target_text
from implicit_em_studies.shared.protocol import Protocol
from implicit_em_studies.shared.tables import mean_and_deviation


def matched_table(at: pd.DataFrame, protocol: Protocol, unit: str = "%") -> pd.DataFrame:
    """Return a matched table as text, with a row for each family and a column for each target.

    A cell holds the mean ± deviation in per cent, and the number of seeds if some are missing. An
    asterisk marks the best mean; ``+`` and ``−`` mark a mean that is significantly better or worse
    than the reference.
    """

    def cell(row: Any) -> str:
        mean = mean_and_deviation(100 * row.mean, 100 * row.std, ".2f")
        best = " *" if row.best else ""
        significant = not pd.isna(row.p_holm) and row.p_holm < SIGNIFICANT
        sign = (" +" if row.ahead > 0 else " −") if significant else ""
        some = f" ({row.n} of {len(protocol.seeds)})" if row.n < len(protocol.seeds) else ""
        return f"{mean}{best}{sign}{some}"

    return _families_by_target(at, list(map(cell, at.itertuples())), protocol.families, unit)


def differences_table(at: pd.DataFrame, protocol: Protocol, unit: str = "%") -> pd.DataFrame:
    """Return each family's lead over the reference in points, as text."""
    tested = at.dropna(subset="ahead")
    others = [family for family in protocol.families if family != protocol.reference]
    return _families_by_target(tested, list(map(ahead_text, tested.itertuples())), others, unit)


def _families_by_target(
    at: pd.DataFrame, cells: Sequence[str], families: Sequence[str], unit: str
) -> pd.DataFrame:
    """Arrange the cells of a matched table's rows by family and target."""
    wide = at.assign(cell=cells).pivot(index="family", columns="target", values="cell")
    wide = wide.reindex(list(families)).fillna("–").rename(index=name_of)
    wide.columns = wide.columns.map(partial(target_text, unit=unit))
    return wide.rename_axis("family").reset_index()


def mean_over_seeds(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return mean ± deviation over the seeds of each setting, as text."""
    rows = []
    for (family, settings), seeds in frame.groupby(["family", "settings"], sort=False):
        row = {"family": name_of(str(family)), "settings": settings, "n": str(len(seeds))}
        for column in columns:
            values = pd.to_numeric(seeds[column], errors="coerce").dropna().to_numpy()
            row[column.replace("_", " ")] = _mean_text(values)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_text(values: np.ndarray) -> str:
    if not len(values):
        return "–"
    alike = np.allclose(values, values[0], rtol=1e-12, atol=0)  # equal up to rounding
    return f"{values.mean():.4g}" + ("" if alike else f" ± {values.std(ddof=1):.2g}")
