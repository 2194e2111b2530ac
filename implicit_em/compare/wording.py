"""Numbers and names of families in print."""

from typing import Any

import pandas as pd

ACTIVE = "active units"  # the unit of targets that are numbers of active units
NAMES = {
    "derived": "derived",
    "derived_without_lse": "derived without LSE",
    "l1": "L1",
    "l1_norm": "L1 · ‖W_d‖",
    "topk": "TopK",
    "batch_topk": "BatchTopK",
    "jump_relu": "JumpReLU",
    "gated": "Gated",
    "hybrid": "SAE with LSE + var + tc",
    "pixels": "pixels",
    "pca": "PCA",
    "ica": "ICA",
    "nmf": "NMF",
    "kmeans": "k-means",
    "gmm": "Gaussian mixture",
    "random": "random directions",
    "untrained": "untrained encoder",
}


def name_of(family: str) -> str:
    """Return the name of a family or knob in print."""
    return NAMES.get(family, family.replace("_", " "))


def percent(share: float, digits: int | None = None) -> str:
    """Return a share as text: ``5 %``; a dash for NaN."""
    text = f"{100 * share:g} %" if digits is None else f"{100 * share:.{digits}f} %"
    return text.replace("nan %", "–")


def target_text(target: float, unit: str) -> str:
    """Return a target as text: a density if the unit is ``%``, else a number of units."""
    return percent(target) if unit == "%" else f"{target:.3g} {unit}"


def shared(numbers: pd.Series) -> str:
    """Return the numbers of the families in the index: ``64 for L1, TopK; 128 for derived``."""
    return "; ".join(
        f"{number} for {', '.join(map(name_of, families.index))}"
        for number, families in numbers.groupby(numbers)
    )


def widths_of(finals: pd.DataFrame) -> str:
    """Return the number of units K of the families as text."""
    return shared(finals.groupby("family", sort=False)["units"].first())


def ahead_text(row: Any) -> str:
    """Return a row's lead in points: ``+0.10 [-0.20, +0.40], p = 1 (4 of 5)``.

    The interval and the p-value are left out if there are none, the number of pairs if all seeds
    have one.
    """
    if pd.isna(row.ahead):
        return "–"
    text = f"{100 * row.ahead:+.2f}"
    if not pd.isna(row.low):
        text += f" [{100 * row.low:+.2f}, {100 * row.high:+.2f}]"
    if not pd.isna(row.p_holm):
        text += f", p = {row.p_holm:.2g}"
    return text if row.pairs == row.n else f"{text} ({row.pairs} of {row.n})"
