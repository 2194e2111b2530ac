"""The runs of a cell."""

from typing import Any

from implicit_em_studies.recovery.protocol import Protocol
from implicit_em_studies.shared import stages

AT_MOST_WIDTH = ("pca", "ica")
"""Controls that have no more units than inputs."""


class Stages(stages.Stages[Protocol]):
    """The runs of each stage in one cell; ``part`` is its name."""

    def own(self, family: str) -> dict[str, Any]:
        """Return the cell's settings of the data, and the number of units K."""
        settings = self.protocol.of_cell(self.part)
        if family in AT_MOST_WIDTH:
            units = min(settings["model.hidden"], settings["data.width"])
            return {**settings, "model.hidden": units}
        return settings
