"""The study on one language model: what it runs and what it writes."""

import json
import logging
from collections.abc import Iterator, Sequence
from itertools import chain, filterfalse
from pathlib import Path

import pandas as pd

from implicit_em.base.errors import RunError
from implicit_em.config.harvest import LanguageModelSettings
from implicit_em.training.progress import working
from implicit_em_studies.language.measuring import losses_of_all, quality_of, stabilities
from implicit_em_studies.language.protocol import CAUSAL, FOLDER, L0, REACHED, TUNED, Protocol
from implicit_em_studies.language.report import Content
from implicit_em_studies.language.results import Results
from implicit_em_studies.language.stages import Stages
from implicit_em_studies.shared import parts
from implicit_em_studies.shared.choice import choose
from implicit_em_studies.shared.execution import has_diverged
from implicit_em_studies.shared.protocol import digest
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.stages import Setting, settings_of, training_of

log = logging.getLogger(__name__)


class Language(parts.Part[Protocol]):
    """Every family on the activations of one language model.

    Args:
        settings: settings of the grids.
        controls: settings of the controls.
        lm: where the language model is.
        directory: directory of the report, with the store and, if there are runs on it, that of the
            model with permuted weights.
    """

    package = "implicit_em_studies.language"

    def __init__(
        self,
        protocol: Protocol,
        name: str,
        settings: Sequence[Setting],
        controls: Sequence[Setting],
        lm: LanguageModelSettings,
        directory: Path,
        conf: Path,
        trial: str | None,
    ) -> None:
        self.name, self.lm = name, lm
        runs = directory / "runs"
        self.stages = Stages(protocol, name, runs, settings, controls, directory / "store")
        fixed = protocol.model_dump(exclude={*protocol.not_hashed, "parts"})
        fixed |= {"part": protocol.parts[name]}
        every = (setting.cfg for setting in chain(settings, controls))
        identity = digest(every, json.dumps(fixed, sort_keys=True))
        super().__init__(protocol, identity, directory, conf, trial, [FOLDER, name])

    def plan(self) -> Iterator[Run]:
        """Yield what is not complete: the grids, a final of each family, and the controls."""
        log.info("%s: checking the runs", self.name)
        waiting = [run for run in self.stages.planned() if not run.completed]
        for stage in {run.cfg.data.final: run for run in waiting}.values():
            stage.spec.build_data()  # refuses a store that has too few tokens
        yield from waiting

    def run(self, command: str, workers: int) -> Path:
        """Tune, choose, train and measure the finals; write tables, figures and report."""
        controls, grids = self.stages.controls(), self.stages.grids()
        self.train(controls, workers)
        self.train(grids, workers)
        if all(map(has_diverged, grids)):
            raise RunError(f"{self.name}: every setting diverged")
        tuning = tuning_table(grids)
        chosen = choose(reaching(tuning), {"validation": f"-{self.protocol.criterion}"})
        settings = self.stages.picked(chosen)
        finals = self._trained(self.stages.at_each_l0(settings), workers)
        if not any(run.metrics()[REACHED] for run in finals):
            raise RunError(
                f"{self.name}: no final ends within 5 % of its model.l0, so none is compared; "
                "more steps bring them nearer"
            )
        permuted = self.stages.permuted(settings, self.directory / "permuted")
        permuted = self._trained(permuted, workers) if permuted else []
        with working(f"{self.name}: measuring finals and controls"):
            results = Results(
                self.protocol,
                tuning,
                chosen,
                self._finals(finals, workers),
                self._controls(controls, workers),
                self._measured(permuted, workers),
                stabilities([r for r in finals if r.cfg.model.l0 == self.protocol.tuning[L0]]),
            )
        runs = [*finals, *permuted, *filterfalse(has_diverged, grids), *controls]
        cfg = finals[0].cfg
        weights = "/".join(filter(None, (self.lm.package, self.lm.path)))
        passes, training = cfg.trainer.max_epochs, training_of(runs)
        content = Content(results, self.name, weights, cfg.data, passes, training)
        return self.write(content, runs, command)

    def _trained(self, runs: list[Run], workers: int) -> list[Run]:
        self.train(runs, workers)
        complete = list(filterfalse(has_diverged, runs))
        if not complete:
            raise RunError(f"{self.name}: every final diverged")
        return complete

    def _finals(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        """Measure the finals, inside the language model if it is causal."""
        table = self._measured(runs, workers)
        if not self.protocol.parts[self.name][CAUSAL]:
            return table
        losses = losses_of_all(runs, self.lm, self.protocol.tokens)
        return table.merge(losses, on=["family", "settings", "seed", "run"])

    def _measured(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        table = quality_of(self.protocol.tokens).of(runs, workers)
        return table.assign(target=[run.cfg.model.l0 for run in runs])

    def _controls(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        """Measure the controls with as many entries of a code as each L0."""
        tables = [
            quality_of(self.protocol.tokens, k).of(runs, workers).assign(target=k)
            for k in self.protocol.l0
        ]
        return pd.concat(tables, ignore_index=True)


def tuning_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return what ``metrics.json`` says of the runs of the grids, a row for each."""
    rows = []
    for run in runs:
        metrics = run.metrics()
        row = {"family": run.sweep, "settings": settings_of(run), "run": run.fingerprint}
        rows.append(row | {key: metrics.get(key) for key in (*TUNED, REACHED, "error")})
    return pd.DataFrame(rows).astype(dict.fromkeys(TUNED, float))


def reaching(tuning: pd.DataFrame) -> pd.DataFrame:
    """Return the settings that end near their L0, and all of a family that has none.

    With more active units than the others, a setting would be chosen for these.
    """
    reached = tuning[REACHED].eq(True)
    return tuning[reached | ~reached.groupby(tuning["family"]).transform("any")]
