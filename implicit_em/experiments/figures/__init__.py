"""The figures of the study; importing the package fills ``PICTURES``."""

from implicit_em.experiments.figures import ablation, dynamics, features, theorem
from implicit_em.experiments.figures.pictures import PICTURES

__all__ = ["PICTURES", "ablation", "dynamics", "features", "theorem"]
