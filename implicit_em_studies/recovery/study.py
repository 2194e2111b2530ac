"""The recovery study: what it runs in each cell, and what it writes of all."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_em_studies.recovery.measuring import measure_all
from implicit_em_studies.recovery.protocol import RecoveryProtocol
from implicit_em_studies.recovery.results import RecoveryResults
from implicit_em_studies.shared import planning
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.study import Request, read_note
from implicit_em_studies.shared.tables import rows_of
from implicit_em_studies.shared.tuned import Tuned, TunedPart, TunedStudy, choose

log = logging.getLogger(__name__)


class RecoveryPart(TunedPart[RecoveryProtocol]):
    """Every family in each cell."""

    def planned(self) -> Iterator[Run]:
        """Yield every kind of run in each cell, and each setting of a grid.

        A setting that is refused in any cell is refused in the one with the fewest units.
        """
        units = {one.name: self.protocol.of_cell(one.name)["model.hidden"] for one in self.stages}
        by_units = sorted(units, key=lambda cell: -units[cell])  # the fewest come last
        fewest = {self.protocol.grids_of(cell): cell for cell in by_units}.values()
        for stages in self.stages:
            log.info("%s: checking the runs", stages.name)
            some = planning.one_of_each_family(stages.settings)
            own = stages if stages.name in fewest else replace(stages, settings=some)
            yield from own.planned()

    def choose(self, tuning: pd.DataFrame) -> pd.DataFrame:
        """Return the best setting of each family by each criterion."""
        return choose(tuning, self.protocol.criteria)

    def chosen_for_variants(self, chosen: pd.DataFrame) -> pd.DataFrame:
        """Return the settings that were chosen without the truth."""
        return rows_of(chosen, criterion="blind")

    def measure(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        """Return what runs recover."""
        return measure_all(runs, workers)

    def named(self, table: pd.DataFrame, stages: planning.Stages[RecoveryProtocol]) -> pd.DataFrame:
        """Return a table with the name of its cell."""
        return table.assign(cell=stages.name)

    def results(self, tuned: Tuned[RecoveryProtocol], workers: int) -> Iterator[RecoveryResults]:
        """Yield the results of all cells."""
        yield RecoveryResults.of(tuned)


def stages_of(
    protocol: RecoveryProtocol,
    cell: str,
    directory: Path,
    settings: Sequence[planning.Setting],
    controls: Sequence[planning.Setting],
) -> planning.Stages[RecoveryProtocol]:
    """Return the runs of a cell; all families have the cell's settings."""
    own = protocol.of_cell(cell)
    inputs = own["data.width"]
    return planning.Stages(
        cell, protocol, directory / "runs" / cell, settings, controls, lambda _: own, inputs
    )


def _prepare(
    protocol: RecoveryProtocol, request: Request, overrides: Sequence[str], trial: str | None
) -> list[RecoveryPart]:
    """Compose all settings once, and check the runs of all cells.

    The report keeps the cells that the directory holds already.
    """
    log.info("composing the runs of %s", ", ".join(protocol.families))

    def composed(names: Sequence[str], grids: Mapping[str, Any]) -> list[planning.Setting]:
        always = ["data=superposition", *overrides]
        return planning.compose_settings(names, grids, request.conf, always)

    settings = {
        "grids": composed(protocol.families, protocol.grids),
        "toy_grids": composed(protocol.toy_families, protocol.toy_grids),
    }
    controls, directory = composed(protocol.controls, protocol.grids), request.directory
    earlier = read_note(directory / "findings.json").get("cells", [])
    asked = {*earlier, *(cell for (cell,) in protocol.chosen(request.words))}
    cells = [cell for (cell,) in protocol.chosen([]) if cell in asked]
    stages = [
        stages_of(protocol, cell, directory, settings[protocol.grids_of(cell)], controls)
        for cell in cells
    ]
    every = chain(*settings.values(), controls)
    part = RecoveryPart("", stages, every, request, directory, trial, ["recover"])
    part.note = {"cells": cells}
    return [part]


STUDY = TunedStudy(
    name="recover",
    noun="recovery",
    directory=Path("results/recover"),
    purpose="Tune all families on data with known features, train the chosen settings over seeds, "
    "and measure which features they find.",
    metavar="CELL | FAMILY | KEY=VALUE",
    words="cells of conf/recover.yaml or groups of them, and families (all if none is named), keys "
    "of that file, e.g. seeds=[1,2] or middle.data.samples=5000, or settings of all runs. Any "
    "KEY=VALUE makes it a trial",
    quick="a trial of a few cells with few settings, in a few minutes",
    needs=RecoveryProtocol.file,
    protocol=RecoveryProtocol,
    prepare=_prepare,
)
