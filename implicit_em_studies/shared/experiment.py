"""What an experiment of this study consists of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from implicit_em_studies.shared.runs import Run

Tables = Mapping[str, pd.DataFrame]
"""What an experiment measured, by name."""
Evidence = Mapping[str, Tables]
"""What was measured, by experiment; one that was not run is missing."""


@dataclass(frozen=True)
class Picture:
    """A figure.

    Args:
        draw: function of what the experiment measured.
    """

    caption: str
    draw: Callable[[Tables], Figure]


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Args:
        title: heading of its section in the report.
        sweeps: names of its files in ``conf/experiment/theory``.
        measure: function of its complete runs; returns tables of numbers.
        shown: captions of the tables that the report shows, by name, each with a function that
            makes them readable.
        pictures: figures by name.
    """

    title: str
    sweeps: Sequence[str]
    measure: Callable[[Sequence[Run]], Tables]
    shown: Mapping[str, tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]]
    pictures: Mapping[str, Picture]
