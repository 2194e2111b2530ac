"""The parts of the comparison, each on one data set: what they run and what they write."""

import logging
from collections.abc import Sequence
from itertools import filterfalse, groupby
from pathlib import Path

import numpy as np
import pandas as pd

from implicit_em.base.errors import ConfigError, RunError
from implicit_em.training.progress import working
from implicit_em_studies.comparison.costs import costs
from implicit_em_studies.comparison.figures import at_target
from implicit_em_studies.comparison.measuring import measure_all, stabilities, tuning_table
from implicit_em_studies.comparison.protocol import Protocol
from implicit_em_studies.comparison.report import FamiliesContent, KnobsContent
from implicit_em_studies.comparison.results import Results, choose
from implicit_em_studies.comparison.stages import Stages, digest
from implicit_em_studies.shared import parts
from implicit_em_studies.shared.execution import has_diverged
from implicit_em_studies.shared.families import name_of
from implicit_em_studies.shared.runs import Run, matrices_of
from implicit_em_studies.shared.stages import settings_of, training_of

log = logging.getLogger(__name__)


class Part(parts.Part[Protocol]):
    """A part on one data set."""

    package = "implicit_em_studies.comparison"

    def __init__(
        self, stages: Stages, dataset: str, directory: Path, conf: Path, trial: str | None
    ) -> None:
        self.stages, self.dataset, self.part = stages, dataset, stages.part
        settings = [*stages.settings, *stages.control_settings]
        identity = digest(stages.protocol, self.part, settings)
        super().__init__(stages.protocol, identity, directory, conf, trial, [dataset, stages.part])
        data = self.stages.run(*settings[0], {}).spec.build_data()
        if len(data.split("train")[1].unique()) < 2:
            raise ConfigError(
                "data.labels: the comparison probes for labels, of two classes at least"
            )


class Families(Part):
    """The families at matched density."""

    def plan(self) -> list[Run]:
        """Return the grids, a final of each family, and the controls."""
        # A family has a grid; a control has a model.
        known = {path.stem for path in (self.conf / "model").glob("*.yaml")}
        known |= set(self.protocol.grids) - set(self.protocol.controls)
        for family, width in self.protocol.parts[self.part].widths.items():
            if family not in known:
                raise ConfigError(
                    f"parts.{self.part}.widths={{{family}: {width}}}: no family or control; "
                    f"allowed: {', '.join(sorted(known))}"
                )
        self.grids, self.controls = self.stages.grids(), self.stages.controls()
        return [*self.grids, *self.stages.possible_finals(), *self.controls]

    def run(self, command: str, workers: int) -> Path:
        """Tune, choose, train the finals, and write tables, figures and report."""
        for family, controls in groupby(self.controls, lambda run: run.sweep):
            log.info("control: %s", name_of(family))  # first, as one may not be fitted
            self.train(list(controls), workers)
        self.train(self.grids, workers)
        tuning = tuning_table(self.grids)
        chosen = choose(self.protocol, tuning)
        if chosen.empty:
            raise RunError(f"{self.dataset}, {self.part}: no setting comes near any density")
        finals = self.stages.finals(self.stages.picked(chosen))
        self.train(finals, workers)
        diverged = [(r.sweep, settings_of(r), r.cfg.seed) for r in filter(has_diverged, finals)]
        finals = list(filterfalse(has_diverged, finals))
        if not finals:
            raise RunError(f"{self.dataset}, {self.part}: every final diverged")
        first = {run.sweep: run for run in reversed(finals)}
        with working("measuring finals and controls"):
            results = Results(
                self.protocol,
                tuning,
                chosen,
                measure_all(finals, workers),
                measure_all(self.controls, workers),
                stabilities(finals),
                costs([first[name] for name in self.protocol.families if name in first]),
                pd.DataFrame(diverged, columns=["family", "settings", "seed"]),
            )
        content = FamiliesContent(
            results,
            _weights_shown(results, finals),
            finals[0].spec.build_data().sample_shape,
            training_of([*self.grids, *finals]),
        )
        return self.write(content, [*finals, *self.grids, *self.controls], command)


class Knobs(Part):
    """What the settings of the derived model move."""

    def plan(self) -> list[Run]:
        """Return all runs."""
        self.runs = self.stages.knobs()
        return self.runs

    def run(self, command: str, workers: int) -> Path:
        """Train, and write table, figure and report."""
        self.train(self.runs, workers)
        table = tuning_table(self.runs).rename(columns={"family": "knob"})
        return self.write(KnobsContent(table, self.protocol), self.runs, command)


def _weights_shown(results: Results, finals: Sequence[Run]) -> dict[str, np.ndarray]:
    """Return the weight rows of each family's setting at the shown density, first seed."""
    shown = at_target(results, results.shown_density)
    first = shown[shown["seed"] == shown["seed"].min()]
    runs = {(run.sweep, run.fingerprint): run for run in finals}
    rows = {}
    for family, fingerprint in zip(first["family"], first["run"], strict=True):
        matrices = matrices_of(runs[family, fingerprint].model())
        rows[family] = matrices.get("decoder", matrices["encoder"])
    return rows
