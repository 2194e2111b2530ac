"""The figures of the study, by name."""

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from implicit_em_studies.paper import ablation, dynamics, features, theorem
from implicit_em_studies.paper.evidence import Evidence


class Picture(NamedTuple):
    """A figure of an experiment."""

    experiment: str
    draw: Callable[[Evidence], Figure]


PICTURES = {
    "figure1": Picture("theorem", theorem.identity),
    "figure2": Picture("ablation", ablation.ablation),
    "figure3": Picture("features", features.features),
    "figure4": Picture("dynamics", dynamics.dynamics),
    "figure5": Picture("dynamics", dynamics.losses),
    "figure6": Picture("ablation", ablation.correlations),
    "figure7": Picture("dynamics", dynamics.crossings),
    "figure8": Picture("dynamics", dynamics.settling),
    "figure9": Picture("features", features.prototypes),
}
