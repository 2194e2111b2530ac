"""The pictures of the report, by name: each registers itself."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from implicit_em.experiments.evidence import Evidence


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Args:
        experiment: experiment that the figure belongs to.
        draw: function that draws the evidence.

    """

    experiment: str
    draw: Callable[[Evidence], Figure]


PICTURES: dict[str, Picture] = {}


def picture(
    name: str, experiment: str
) -> Callable[[Callable[[Evidence], Figure]], Callable[[Evidence], Figure]]:
    """Register a function that draws a figure of the report."""

    def register(draw: Callable[[Evidence], Figure]) -> Callable[[Evidence], Figure]:
        PICTURES[name] = Picture(experiment, draw)
        return draw

    return register
