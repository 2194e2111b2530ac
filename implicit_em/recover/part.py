"""The recovery study over its cells: what it runs and what it writes."""

import json
import logging
from collections.abc import Iterator, Sequence
from itertools import filterfalse
from pathlib import Path

import pandas as pd

from implicit_em.base.errors import RunError
from implicit_em.recover.criteria import choose
from implicit_em.recover.measuring import measure_all
from implicit_em.recover.protocol import Protocol
from implicit_em.recover.report import Content
from implicit_em.recover.results import Results
from implicit_em.recover.stages import Stages
from implicit_em.studies import parts
from implicit_em.studies.execution import has_diverged
from implicit_em.studies.protocol import digest
from implicit_em.studies.runs import Run
from implicit_em.studies.stages import Setting, training_of
from implicit_em.studies.study_directory import read_note
from implicit_em.training.progress import working

log = logging.getLogger(__name__)
TABLES = ("tuning", "chosen", "finals", "controls")


class Recovery(parts.Part[Protocol]):
    """Every family in each cell; the report keeps the cells that the directory holds already."""

    package, folder = "implicit_em.recover", "recover"

    def __init__(
        self,
        protocol: Protocol,
        cells: Sequence[str],
        settings: Sequence[Setting],
        controls: Sequence[Setting],
        directory: Path,
        conf: Path,
        trial: str | None,
    ) -> None:
        self.settings, self.controls = settings, controls
        earlier = read_note(directory / "findings.json").get("cells", [])
        self.cells = [cell for cell in protocol.chosen([]) if cell in (*cells, *earlier)]
        fixed = json.dumps(protocol.model_dump(exclude={"quick"}), sort_keys=True)
        identity = digest((setting.cfg for setting in [*settings, *controls]), fixed)
        super().__init__(protocol, identity, directory, conf, trial, ["recover"])

    def stages(self, cell: str) -> Stages:
        """Return the stages of a cell."""
        families = self.protocol.families_of(cell)
        settings = [setting for setting in self.settings if setting.family in families]
        runs = self.directory / "runs" / cell
        return Stages(self.protocol, cell, runs, settings, self.controls)

    def plan(self) -> Iterator[Run]:
        """Yield what is not complete of every cell: grids, a final of each family, controls."""
        for cell in self.cells:
            log.info("%s: checking the runs", cell)
            stages = self.stages(cell)
            runs = (*stages.grids(), *stages.possible_finals(), *stages.controls())
            yield from (run for run in runs if not run.completed)

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
        finals = stages.finals(tables["chosen"])
        self.train(finals, workers)
        finals = list(filterfalse(has_diverged, finals))
        if not finals:
            raise RunError(f"{cell}: every final diverged")
        with working(f"{cell}: measuring finals"):
            tables["finals"] = measure_all(finals, workers)
        return tables, [*finals, *filterfalse(has_diverged, grids), *controls]
