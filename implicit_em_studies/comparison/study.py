"""The comparison: what its parts run on each data set, and what they write."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from implicit_em.base.errors import ConfigError, RunError
from implicit_em.base.progress import working
from implicit_em.metrics.dictionaries import varying
from implicit_em_studies.comparison.figures import at_target
from implicit_em_studies.comparison.matching import select
from implicit_em_studies.comparison.measuring import measure_all, tuning_table
from implicit_em_studies.comparison.protocol import ComparisonProtocol
from implicit_em_studies.comparison.results import ComparisonResults
from implicit_em_studies.shared import planning
from implicit_em_studies.shared.measurements import samples_of, stabilities
from implicit_em_studies.shared.runs import Run, directions_of
from implicit_em_studies.shared.study import Request
from implicit_em_studies.shared.tuned import Tuned, TunedPart, TunedStudy

log = logging.getLogger(__name__)
Stages = planning.Stages[ComparisonProtocol]


def stages_of(
    protocol: ComparisonProtocol,
    part: str,
    name: str,
    runs: Path,
    settings: Sequence[planning.Setting],
    controls: Sequence[planning.Setting] = (),
) -> Stages:
    """Return the runs of a part, whose families have a number of units K each."""

    def own(family: str) -> dict[str, int]:
        return {"model.hidden": protocol.width_of(part, family)}

    return Stages(name, protocol, runs, settings, controls, own)


class FamiliesPart(TunedPart[ComparisonProtocol]):
    """The families at matched density, on one data set."""

    def planned(self) -> list[Run]:
        """Return the runs; data without labels, and a width of no family are refused."""
        (stages,) = self.stages
        # A family has a grid; a control has a model.
        known = {path.stem for path in (self.conf / "model").glob("*.yaml")}
        known |= set(self.protocol.grids) - set(self.protocol.controls)
        for family, width in self.protocol.parts[self.name].widths.items():
            if family not in known:
                raise ConfigError(
                    f"parts.{self.name}.widths={{{family}: {width}}}: no family or control; "
                    f"allowed: {', '.join(sorted(known))}"
                )
        runs = stages.planned()
        _refuse_without_labels(runs[0])
        return runs

    def tune(self, grids: Sequence[Run], workers: int) -> pd.DataFrame:
        """Return density and probe of each setting, on validation samples."""
        return tuning_table(grids)

    def choose(self, tuning: pd.DataFrame) -> pd.DataFrame:
        """Return the setting of each family with the best probe near each density."""
        protocol = self.protocol
        chosen = select(tuning, protocol.densities, protocol.reach, protocol.beyond)
        if chosen.empty:
            raise RunError(f"{self.stages[0].name}: no setting comes near any density")
        return chosen

    def measure(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        """Return the quality of runs on test samples."""
        return measure_all(runs, workers)

    def results(
        self, tuned: Tuned[ComparisonProtocol], workers: int
    ) -> Iterator[ComparisonResults]:
        """Measure stability; yield what the report shows."""
        columns = ["family", "settings", "seed"]
        lost = pd.DataFrame(map(planning.row_of, tuned.lost), columns=columns)
        with working("measuring stability"):
            alike = stabilities(tuned.finals, varying(samples_of(tuned.finals[0])[0].numpy()))
        results = ComparisonResults.of(
            tuned,
            stability=alike,
            lost=lost,
            name=self.stages[0].name,
            weights={},
            sample_shape=tuned.finals[0].spec.build_data().sample_shape,
        )
        yield replace(results, weights=_weights_shown(results, tuned.finals))


def _refuse_without_labels(run: Run) -> None:
    if len(run.spec.build_data().split("train")[1].unique()) < 2:
        raise ConfigError("data.labels: the comparison probes for labels, of two classes at least")


def _weights_shown(results: ComparisonResults, finals: Sequence[Run]) -> dict[str, np.ndarray]:
    """Return the weight rows of each family's setting at the shown density, first seed."""
    shown = at_target(results, results.shown_density)
    first = shown[shown["seed"] == shown["seed"].min()]
    runs = {(run.sweep, run.fingerprint): run for run in finals}
    rows = {}
    for family, fingerprint in zip(first["family"], first["run"], strict=True):
        rows[family] = directions_of(runs[family, fingerprint].model())
    return rows


def _prepare(
    protocol: ComparisonProtocol, request: Request, overrides: Sequence[str], trial: str | None
) -> list[TunedPart[ComparisonProtocol]]:
    """Compose and check the runs of all parts; parts that share grids compose them once."""

    @cache
    def settings(dataset: str, names: tuple[str, ...], grids: str) -> list[planning.Setting]:
        log.info("%s: composing the runs of %s", dataset, ", ".join(names))
        always = [f"data={dataset}", *overrides]
        return planning.compose_settings(names, json.loads(grids), request.conf, always)

    prepared: list[TunedPart[ComparisonProtocol]] = []
    for dataset, part in protocol.chosen(request.words):
        own = protocol.of_part(part)
        grids = json.dumps(own.grids)
        every = [settings(dataset, tuple(some), grids) for some in (own.families, own.controls)]
        folder = request.directory / dataset
        stages = stages_of(own, part, f"{dataset}, {part}", folder / "runs", *every)
        about = request, folder / part, trial, [dataset, part]
        prepared.append(FamiliesPart(part, [stages], chain.from_iterable(every), *about))
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
