"""The comparison: what its parts run on each data set, and what they write."""

import json
import logging
from collections.abc import Sequence
from functools import cache
from itertools import groupby, product
from pathlib import Path

import numpy as np
import pandas as pd

from implicit_em.base.errors import ConfigError, RunError
from implicit_em.base.progress import working
from implicit_em_studies.comparison.costs import costs
from implicit_em_studies.comparison.figures import at_target
from implicit_em_studies.comparison.knobs import KnobsContent
from implicit_em_studies.comparison.matching import select
from implicit_em_studies.comparison.measuring import measure_all, stabilities, tuning_table
from implicit_em_studies.comparison.protocol import CURVE, DERIVED, KNOBS, ComparisonProtocol
from implicit_em_studies.comparison.report import FamiliesContent
from implicit_em_studies.comparison.results import TARGET_LEADS, ComparisonResults
from implicit_em_studies.shared import planning
from implicit_em_studies.shared.protocol import digest
from implicit_em_studies.shared.runs import Place, Run, has_diverged, matrices_of
from implicit_em_studies.shared.study import Request
from implicit_em_studies.shared.tables import name_of
from implicit_em_studies.shared.tuned import TunedPart, TunedStudy

log = logging.getLogger(__name__)


class ComparisonStages(planning.Stages[ComparisonProtocol]):
    """The runs of each stage of a part on one data set."""

    def own(self, family: str) -> dict[str, int]:
        """Return the number of units K that a family has in this part."""
        return {"model.hidden": self.protocol.width_of(self.part, family)}

    def knobs(self) -> list[Run]:
        """Return the runs of the knobs, as those of the derived grid, but once per seed."""
        runs: dict[str, Run] = {}
        for knob, axes, cfg in self.settings:
            for seed in self.protocol.seeds:
                run = self.run(DERIVED, axes, cfg, {**self.protocol.tuning, "seed": seed})
                run.places = []
                runs.setdefault(run.fingerprint, run).places.append(Place(knob, axes))
        return list(runs.values())


def digest_of(protocol: ComparisonProtocol, part: str, settings: Sequence[planning.Setting]) -> str:
    """Return a digest of a part of a protocol with all its settings and controls."""
    return digest((setting.cfg for setting in settings), protocol.deciding(part))


class ComparisonPart(TunedPart[ComparisonProtocol]):
    """A part on one data set."""

    package = "implicit_em_studies.comparison"

    def __init__(
        self, stages: ComparisonStages, dataset: str, directory: Path, conf: Path, trial: str | None
    ) -> None:
        self.stages, self.dataset, self.part = stages, dataset, stages.part
        self.name = f"{dataset}, {stages.part}"
        settings = [*stages.settings, *stages.control_settings]
        identity = digest_of(stages.protocol, self.part, settings)
        super().__init__(stages.protocol, identity, directory, conf, trial, [dataset, stages.part])
        data = self.stages.run(*settings[0], {}).spec.build_data()
        if len(data.split("train")[1].unique()) < 2:
            raise ConfigError(
                "data.labels: the comparison probes for labels, of two classes at least"
            )


class FamiliesPart(ComparisonPart):
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
        for family, own in groupby(self.controls, lambda run: run.sweep):
            log.info("control: %s", name_of(family))  # first, as one may not be fitted
            self.train(list(own), workers)
        self.train(self.grids, workers)
        tuning = tuning_table(self.grids)
        protocol = self.protocol
        chosen = select(tuning, protocol.densities, protocol.reach, protocol.beyond)
        if chosen.empty:
            raise RunError(f"{self.name}: no setting comes near any density")
        finals = self.stages.finals(self.stages.picked(chosen))
        kept = self.trained(finals, workers, f"{self.name}: every final")
        variants = self.stages.finals(self.stages.varied(self.stages.picked(chosen)))
        controls = [*self.controls, *self.kept(variants, workers)]
        diverged = map(planning.row_of, filter(has_diverged, finals))
        lost = pd.DataFrame(diverged, columns=["family", "settings", "seed"])
        first = {run.sweep: run for run in reversed(kept)}
        with working("measuring finals and controls"):
            measured = measure_all(kept, workers), measure_all(controls, workers)
            alike = stabilities(kept)
            steps = costs([first[name] for name in self.protocol.families if name in first])
        more = alike, steps, lost, self._elsewhere()
        results = ComparisonResults(self.protocol, tuning, chosen, *measured, *more)
        shown, shape = _weights_shown(results, kept), kept[0].spec.build_data().sample_shape
        training = planning.training_of([*self.grids, *kept])
        content = FamiliesContent(results, shown, shape, training)
        return self.write(content, [*kept, *self.grids, *controls], command)

    def _elsewhere(self) -> pd.DataFrame:
        """Return ``target_leads`` of the reports on other parts and data that are there."""
        asked, folder = self.protocol.targets, self.directory.parents[1]
        parts = product(self.protocol.datasets, asked.parts if asked else ())
        files = [folder / data / part / "tables" / f"{TARGET_LEADS}.csv" for data, part in parts]
        others = [file for file in files if file.exists() and self.directory not in file.parents]
        return pd.concat([pd.DataFrame(), *map(pd.read_csv, others)], ignore_index=True)


class KnobsPart(ComparisonPart):
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


def _weights_shown(results: ComparisonResults, finals: Sequence[Run]) -> dict[str, np.ndarray]:
    """Return the weight rows of each family's setting at the shown density, first seed."""
    shown = at_target(results, results.shown_density)
    first = shown[shown["seed"] == shown["seed"].min()]
    runs = {(run.sweep, run.fingerprint): run for run in finals}
    rows = {}
    for family, fingerprint in zip(first["family"], first["run"], strict=True):
        matrices = matrices_of(runs[family, fingerprint].model())
        rows[family] = matrices.get("decoder", matrices["encoder"])
    return rows


def _prepare(
    protocol: ComparisonProtocol, request: Request, overrides: Sequence[str], trial: str | None
) -> list[ComparisonPart]:
    """Compose and check the runs of all parts."""

    @cache
    def settings(dataset: str, names: tuple[str, ...], grids: str) -> list[planning.Setting]:
        log.info("%s: composing the runs of %s", dataset, ", ".join(names))
        always = [f"data={dataset}", *overrides]
        return planning.compose_settings(names, json.loads(grids), request.conf, always)

    prepared: list[ComparisonPart] = []
    for dataset, part in protocol.chosen(request.words):
        folder = request.directory / dataset
        runs, results = folder / "runs", folder / part
        if part == KNOBS:
            names = (*CURVE, *protocol.knobs)
            varied = settings(dataset, names, json.dumps(protocol.knob_grids))
            stages = ComparisonStages(protocol, part, runs, varied, ())
            prepared.append(KnobsPart(stages, dataset, results, request.conf, trial))
        else:
            own = protocol.of_part(part)
            grids = json.dumps(own.grids)
            families = settings(dataset, tuple(own.families), grids)
            controls = settings(dataset, tuple(own.controls), grids)
            stages = ComparisonStages(own, part, runs, families, controls)
            prepared.append(FamiliesPart(stages, dataset, results, request.conf, trial))
    return prepared


STUDY = TunedStudy(
    name="compare",
    noun="comparison",
    directory=Path("results/compare"),
    purpose="Tune all families, train what was chosen over seeds, compare at matched density.",
    metavar="PART | FAMILY | KEY=VALUE",
    words="data sets, parts and families of conf/compare.yaml (all if none is named), keys of that "
    "file, e.g. seeds=[1,2] or finals.trainer.max_epochs=2, or settings of all runs. Any "
    "KEY=VALUE makes it a trial",
    needs=ComparisonProtocol.file,
    protocol=ComparisonProtocol,
    prepare=_prepare,
)
