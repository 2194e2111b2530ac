"""The recovery study over its cells: what it runs and what it writes."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, filterfalse
from pathlib import Path

import pandas as pd

from implicit_em.base.errors import RunError
from implicit_em.training.progress import working
from implicit_em_studies.recovery.measuring import measure_all
from implicit_em_studies.recovery.protocol import FOLDER, Protocol
from implicit_em_studies.recovery.report import Content
from implicit_em_studies.recovery.results import Results
from implicit_em_studies.recovery.stages import Stages
from implicit_em_studies.shared import parts
from implicit_em_studies.shared.choice import choose
from implicit_em_studies.shared.execution import has_diverged
from implicit_em_studies.shared.protocol import digest
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.stages import Setting, one_of_each_family, training_of
from implicit_em_studies.shared.study_directory import read_note

log = logging.getLogger(__name__)
TABLES = ("tuning", "chosen", "finals", "controls")


class Recovery(parts.Part[Protocol]):
    """Every family in each cell; the report keeps the cells that the directory holds already.

    Args:
        settings: settings of the grids, by their field of the protocol.
        controls: settings of the controls.
    """

    package = "implicit_em_studies.recovery"

    def __init__(
        self,
        protocol: Protocol,
        cells: Sequence[str],
        settings: Mapping[str, Sequence[Setting]],
        controls: Sequence[Setting],
        directory: Path,
        conf: Path,
        trial: str | None,
    ) -> None:
        self.settings, self.controls = settings, controls
        earlier = read_note(directory / "findings.json").get("cells", [])
        self.cells = [cell for cell in protocol.chosen([]) if cell in (*cells, *earlier)]
        fixed = json.dumps(protocol.model_dump(exclude=set(protocol.not_hashed)), sort_keys=True)
        every = chain(*settings.values(), controls)
        identity = digest((setting.cfg for setting in every), fixed)
        super().__init__(protocol, identity, directory, conf, trial, [FOLDER])

    def stages(self, cell: str) -> Stages:
        """Return the stages of a cell."""
        settings = self.settings[self.protocol.grids_of(cell)]
        runs = self.directory / "runs" / cell
        return Stages(self.protocol, cell, runs, settings, self.controls)

    def plan(self) -> Iterator[Run]:
        """Yield what is not complete: every kind of run in each cell, and each setting of a grid.

        A setting that is refused in any cell is refused in the one with the fewest units.
        """
        fewest = {self.protocol.grids_of(cell): cell for cell in self._by_units()}.values()
        for cell in self.cells:
            log.info("%s: checking the runs", cell)
            stages = self.stages(cell)
            if cell not in fewest:
                stages.settings = one_of_each_family(stages.settings)
            runs = (*stages.grids(), *stages.possible_finals(), *stages.controls())
            yield from (run for run in runs if not run.completed)

    def _by_units(self) -> list[str]:
        """Return the cells, those with the fewest units last."""
        units = {cell: self.protocol.of_cell(cell)["model.hidden"] for cell in self.cells}
        return sorted(self.cells, key=lambda cell: -units[cell])

    def run(self, command: str, workers: int) -> Path:
        """Tune, choose and train the finals of each cell; write tables, figures and report."""
        found: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
        runs: list[Run] = []
        for cell in self.cells:
            tables, own = self._cell(cell, workers)
            runs += own
            for name, table in tables.items():
                found[name].append(table.assign(cell=cell))
        joined = {name: pd.concat(tables, ignore_index=True) for name, tables in found.items()}
        content = Content(Results(self.protocol, **joined), training_of(runs))
        return self.write(content, runs, command, cells=self.cells)

    def _cell(self, cell: str, workers: int) -> tuple[dict[str, pd.DataFrame], list[Run]]:
        log.info("cell: %s", cell)
        stages = self.stages(cell)
        controls, grids = stages.controls(), stages.grids()
        self.train(controls, workers)
        self.train(grids, workers)
        with working(f"{cell}: measuring controls and grids"):
            tables = {
                "controls": measure_all(controls, workers),
                "tuning": measure_all(grids, workers),
            }
        if all(map(has_diverged, grids)):
            raise RunError(f"{cell}: every setting diverged")
        tables["chosen"] = choose(tables["tuning"], self.protocol.criteria)
        finals = stages.finals(stages.picked(tables["chosen"]))
        self.train(finals, workers)
        finals = list(filterfalse(has_diverged, finals))
        if not finals:
            raise RunError(f"{cell}: every final diverged")
        with working(f"{cell}: measuring finals"):
            tables["finals"] = measure_all(finals, workers)
        return tables, [*finals, *filterfalse(has_diverged, grids), *controls]
