"""The recovery study: what it runs in each cell, and what it writes of all."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_em.base.progress import working
from implicit_em_studies.recovery.measuring import measure_all
from implicit_em_studies.recovery.protocol import RecoveryProtocol
from implicit_em_studies.recovery.report import RecoveryContent
from implicit_em_studies.recovery.results import RecoveryResults
from implicit_em_studies.shared import planning
from implicit_em_studies.shared.protocol import digest
from implicit_em_studies.shared.runs import Run, has_diverged
from implicit_em_studies.shared.study import Request, read_note
from implicit_em_studies.shared.tables import rows_of
from implicit_em_studies.shared.tuned import TunedPart, TunedStudy, choose

log = logging.getLogger(__name__)


class RecoveryStages(planning.Stages[RecoveryProtocol]):
    """The runs of each stage in one cell."""

    def own(self, family: str) -> dict[str, Any]:
        """Return the cell's settings of the data, and the number of units K."""
        settings = self.protocol.of_cell(self.part)
        if family in planning.AT_MOST_WIDTH:
            units = min(settings["model.hidden"], settings["data.width"])
            return {**settings, "model.hidden": units}
        return settings


class RecoveryPart(TunedPart[RecoveryProtocol]):
    """Every family in each cell; the report keeps the cells that the directory holds already.

    Args:
        cells: names of the cells that were asked for.
        settings: settings of the grids, by their field of the protocol.
        controls: settings of the controls.
    """

    package = "implicit_em_studies.recovery"

    def __init__(
        self,
        protocol: RecoveryProtocol,
        cells: Sequence[str],
        settings: Mapping[str, Sequence[planning.Setting]],
        controls: Sequence[planning.Setting],
        request: Request,
        trial: str | None,
    ) -> None:
        self.settings, self.controls = settings, controls
        earlier = read_note(request.directory / "findings.json").get("cells", [])
        self.cells = [cell for (cell,) in protocol.chosen([]) if cell in (*cells, *earlier)]
        fixed = protocol.model_dump(exclude=set(protocol.not_hashed))
        every = chain(*settings.values(), controls)
        identity = digest((setting.cfg for setting in every), fixed)
        folders = request.directory, request.conf
        super().__init__(protocol, identity, *folders, trial, ["recover"])

    def stages(self, cell: str) -> RecoveryStages:
        """Return the stages of a cell."""
        settings = self.settings[self.protocol.grids_of(cell)]
        runs = self.directory / "runs" / cell
        return RecoveryStages(self.protocol, cell, runs, settings, self.controls)

    def plan(self) -> Iterator[Run]:
        """Yield what is not complete: every kind of run in each cell, and each setting of a grid.

        A setting that is refused in any cell is refused in the one with the fewest units.
        """
        units = {cell: self.protocol.of_cell(cell)["model.hidden"] for cell in self.cells}
        by_units = sorted(self.cells, key=lambda cell: -units[cell])  # the fewest come last
        fewest = {self.protocol.grids_of(cell): cell for cell in by_units}.values()
        for cell in self.cells:
            log.info("%s: checking the runs", cell)
            stages = self.stages(cell)
            if cell not in fewest:
                stages.settings = planning.one_of_each_family(stages.settings)
            runs = (*stages.grids(), *stages.possible_finals(), *stages.controls())
            yield from (run for run in runs if not run.completed)

    def run(self, command: str, workers: int) -> Path:
        """Tune, choose and train the finals of each cell; write tables, figures and report."""
        found, runs_of_cells = zip(*(self._cell(cell, workers) for cell in self.cells), strict=True)
        tables = [pd.concat(of_cells, ignore_index=True) for of_cells in zip(*found, strict=True)]
        runs = list(chain(*runs_of_cells))
        results = RecoveryResults(self.protocol, *tables)
        content = RecoveryContent(results, planning.training_of(runs))
        return self.write(content, runs, command, cells=self.cells)

    def _cell(self, cell: str, workers: int) -> tuple[list[pd.DataFrame], list[Run]]:
        """Return the tables of a cell, in the order of ``RecoveryResults``, and its runs."""
        log.info("cell: %s", cell)
        stages = self.stages(cell)
        controls, grids = stages.controls(), stages.grids()
        self.train(controls, workers)
        kept = self.trained(grids, workers, f"{cell}: every setting")
        with working(f"{cell}: measuring controls and grids"):
            of_controls, tuning = measure_all(controls, workers), measure_all(grids, workers)
        chosen = choose(tuning, self.protocol.criteria)
        finals = stages.finals(stages.picked(chosen))
        finals = self.trained(finals, workers, f"{cell}: every final")
        blind = stages.picked(rows_of(chosen, criterion="blind"))
        variants = stages.finals(stages.varied(blind))
        self.train(variants, workers)
        with working(f"{cell}: measuring finals"):
            of_controls = pd.concat([of_controls, measure_all(variants, workers)])
            tables = [tuning, chosen, measure_all(finals, workers), of_controls]
        variants = [run for run in variants if not has_diverged(run)]
        return [table.assign(cell=cell) for table in tables], [*finals, *kept, *controls, *variants]


def _prepare(
    protocol: RecoveryProtocol, request: Request, overrides: Sequence[str], trial: str | None
) -> list[RecoveryPart]:
    """Compose all settings once, and check the runs of all cells."""
    cells = [cell for (cell,) in protocol.chosen(request.words)]
    log.info("composing the runs of %s", ", ".join(protocol.families))

    always = ["data=superposition", *overrides]

    def composed(names: Sequence[str], grids: Mapping[str, Any]) -> list[planning.Setting]:
        return planning.compose_settings(names, grids, request.conf, always)

    settings = {
        "grids": composed(protocol.families, protocol.grids),
        "toy_grids": composed(protocol.toy_families, protocol.toy_grids),
    }
    controls = composed(protocol.controls, protocol.grids)
    return [RecoveryPart(protocol, cells, settings, controls, request, trial)]


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
