"""What each setting of the derived model moves: density, or quality at the same density."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure

from implicit_em_studies.comparison import figures
from implicit_em_studies.comparison.matching import at_density
from implicit_em_studies.comparison.protocol import BASE, CURVE, ComparisonProtocol
from implicit_em_studies.shared.pairs import SIGNIFICANT, TESTED, ahead_text, corrected, lead
from implicit_em_studies.shared.tables import mean_and_deviation, records, rows_of
from implicit_em_studies.shared.tuned import Content


def effects(table: pd.DataFrame, beyond: float) -> pd.DataFrame:
    """Compare each setting with the curve over the weight of LSE.

    Args:
        table: one row per run: ``knob``, ``settings``, ``seed``, ``density`` and
            ``probe_accuracy``; the last two are null if the run diverged.
        beyond: factor by which a curve reaches past its ends, as in ``matching.at_density``.

    Returns:
        One row per setting: ``n`` runs that did not diverge, means and deviations (``_std``), and
        ``matching.lead`` over the curve with ``p_holm``, corrected over all settings. Settings of
        the curve itself are not tested.
    """
    curves: dict[Any, pd.DataFrame] = dict(iter(table[table["knob"].isin(CURVE)].groupby("seed")))
    rows: list[dict[str, Any]] = []
    for (knob, settings), runs in table.groupby(["knob", "settings"], sort=False):
        kept = runs.dropna(subset=["density", "probe_accuracy"]).set_index("seed")
        row = {"knob": knob, "settings": settings, "n": len(kept), "pairs": 0}
        for column in ("density", "probe_accuracy"):
            row |= {column: kept[column].mean(), f"{column}_std": kept[column].std()}
        reached = {}
        for seed, density in kept["density"].items():
            curve = curves[seed]
            reached[seed] = at_density(curve["density"], curve["probe_accuracy"], density, beyond)
        expected = pd.Series(reached, dtype=float).dropna()
        if knob not in CURVE and len(expected):
            row |= lead(kept["probe_accuracy"], expected)
        rows.append(row)
    measured = ["density", "density_std", "probe_accuracy", "probe_accuracy_std"]
    frame = pd.DataFrame(rows, columns=["knob", "settings", "n", *measured, *TESTED])
    frame = frame.astype(dict.fromkeys([*measured, *TESTED[1:]], float))
    return frame.assign(p_holm=corrected(frame["p_value"]))


@dataclass(frozen=True)
class KnobsContent(Content[ComparisonProtocol]):
    """The effects of the derived model's settings."""

    runs: pd.DataFrame  # the table of ``effects``

    package = "implicit_em_studies.comparison"
    template: ClassVar[str] = "knobs.md.j2"
    says: ClassVar[str] = "knob_findings.md.j2"

    @cached_property
    def moved(self) -> pd.DataFrame:
        """Effect of each setting."""
        return effects(self.runs, self.protocol.beyond)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the largest density of each knob's settings and of the default."""
        base, ranges = rows_of(self.moved, knob=BASE), {}
        for knob, rows in self.moved[self.moved["knob"] != BASE].groupby("knob", sort=False):
            if rows["density"].notna().any():
                densities = pd.concat([base, rows])["density"]
                ranges[str(knob).replace("_", " ")] = densities.min(), densities.max()
        return ranges

    @property
    def default(self) -> float:
        """The density of the default settings; NaN if they diverged."""
        return rows_of(self.moved, knob=BASE)["density"].mean()

    def clear(self, sign: int) -> list[dict[str, Any]]:
        """Return the settings that are significantly better (1) or worse (-1), farthest first."""
        found = self.moved[(self.moved["p_holm"] < SIGNIFICANT) & (sign * self.moved["ahead"] > 0)]
        return records(found.sort_values("ahead", ascending=sign < 0))

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables of numbers by name."""
        return {"runs": self.runs, "knobs": self.moved}

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name."""
        return {"knobs": partial(figures.knobs, self.runs, self.moved)}

    @property
    def table(self) -> pd.DataFrame:
        """The effects as text."""
        moved = self.moved
        return pd.DataFrame(
            {
                "knob": moved["knob"].str.replace("_", " "),
                "setting": moved["settings"],
                "n": moved["n"].astype(str),
                "density, %": _in_per_cent(moved, "density", ".1f"),
                "probe, %": _in_per_cent(moved, "probe_accuracy", ".2f"),
                "points above the curve": list(map(ahead_text, moved.itertuples())),
            }
        )


def _in_per_cent(moved: pd.DataFrame, column: str, form: str) -> list[str]:
    numbers = zip(100 * moved[column], 100 * moved[f"{column}_std"], strict=True)
    return [mean_and_deviation(mean, deviation, form) for mean, deviation in numbers]
