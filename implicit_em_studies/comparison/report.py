"""The content of a part's report: tables, figures, findings, and what its template names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import ModuleType
from typing import ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_em_studies.comparison import figures, text_tables, wording
from implicit_em_studies.comparison.findings import findings
from implicit_em_studies.comparison.knobs import effects, knob_findings
from implicit_em_studies.comparison.protocol import Protocol
from implicit_em_studies.comparison.results import Results
from implicit_em_studies.shared import text_tables as matched_tables
from implicit_em_studies.shared.pairs import ahead_text
from implicit_em_studies.shared.tables import mean_and_deviation


@dataclass(frozen=True)
class FamiliesContent:
    """The families at matched density."""

    results: Results
    weights: Mapping[str, np.ndarray]  # rows (K, D) of each family at ``results.shown_density``
    sample_shape: tuple[int, ...]
    training: str  # optimizers and schedules of the runs

    template: ClassVar[str] = "report.md.j2"
    text: ClassVar[ModuleType] = text_tables
    matched: ClassVar[ModuleType] = matched_tables
    words: ClassVar[ModuleType] = wording

    @cached_property
    def findings(self) -> list[str]:
        """What the tables say, one sentence each."""
        return findings(self.results)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables of numbers by name."""
        return self.results.tables()

    @property
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name."""
        return {
            "pareto": partial(figures.quality_over_density, self.results),
            "grids": partial(figures.grids, self.results),
            "features": partial(figures.features, self.weights, self.sample_shape),
            "histograms": partial(figures.histograms, self.results, self.results.shown_density),
        }


@dataclass(frozen=True)
class KnobsContent:
    """The effects of the derived model's settings."""

    runs: pd.DataFrame  # one row per run, as ``knobs.effects`` takes it
    protocol: Protocol

    template: ClassVar[str] = "knobs.md.j2"

    @cached_property
    def moved(self) -> pd.DataFrame:
        """Effect of each setting."""
        return effects(self.runs, self.protocol.beyond)

    @cached_property
    def findings(self) -> list[str]:
        """What the table says, one sentence each."""
        return knob_findings(self.moved, self.protocol.reach)

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
