"""The pictures of the report, by name: each registers itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from implicit_em.experiments.evidence import Evidence
from implicit_em.studies.figures import write


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Args:
        experiment: that it belongs to.
        caption: what it shows.
        draw: makes it of the evidence.

    """

    experiment: str
    caption: str
    draw: Callable[[Evidence], Figure]


PICTURES: dict[str, Picture] = {}


def picture(
    name: str, experiment: str, caption: str
) -> Callable[[Callable[[Evidence], Figure]], Callable[[Evidence], Figure]]:
    """Make a picture of the report of a function that draws it."""

    def register(draw: Callable[[Evidence], Figure]) -> Callable[[Evidence], Figure]:
        PICTURES[name] = Picture(experiment, caption, draw)
        return draw

    return register


def save(name: str, evidence: Evidence, directory: Path, trial: str | None) -> None:
    """Draw a picture and write it as PNG and PDF; that of a trial says so."""
    write(lambda: PICTURES[name].draw(evidence), directory / name, trial)
