"""What the criteria judge."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import pandas as pd

from implicit_em_studies.shared.experiment import Measured


@dataclass(frozen=True)
class Evidence:
    """What the experiments measured; that of an experiment that was not run is empty.

    A table of runs has the keys of ``metrics.json`` and the axes of the sweep.
    """

    draws: pd.DataFrame = field(default_factory=pd.DataFrame)  # of the theorem
    ablation: pd.DataFrame = field(default_factory=pd.DataFrame)  # runs
    benchmark: pd.DataFrame = field(default_factory=pd.DataFrame)  # runs
    dynamics: pd.DataFrame = field(default_factory=pd.DataFrame)  # runs
    crossings: pd.DataFrame = field(default_factory=pd.DataFrame)  # of the dynamics
    settling: pd.DataFrame = field(default_factory=pd.DataFrame)  # of the dynamics
    features: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def of(cls, measured: Mapping[str, Measured]) -> "Evidence":
        """Return the evidence among all that the experiments measured."""
        names = {one.name for one in fields(cls)}
        return cls(**{n: one for own in measured.values() for n, one in own.items() if n in names})
