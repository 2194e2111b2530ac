"""The study of language models: what it runs on the activations of each, and what it writes."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_em.base.errors import RunError
from implicit_em.base.progress import working
from implicit_em.config.composing import composed
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.configuration import digest_of_store
from implicit_em.language.harvest import harvest
from implicit_em.language.models import CausalModel
from implicit_em.language.settings import HarvestSettings, LanguageModelSettings
from implicit_em_studies.language import measuring
from implicit_em_studies.language.protocol import CAUSAL, HARVEST, L0, REACHED, LanguageProtocol
from implicit_em_studies.language.report import LanguageContent
from implicit_em_studies.language.results import LanguageResults
from implicit_em_studies.shared import planning
from implicit_em_studies.shared.protocol import digest
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.study import Request
from implicit_em_studies.shared.tuned import TunedPart, TunedStudy, choose

log = logging.getLogger(__name__)


@dataclass
class LanguageStages(planning.Stages[LanguageProtocol]):
    """The runs of each stage on one store; ``part`` names the language model.

    Without a store, which is yet to be harvested, runs can be checked and not trained.
    """

    store: Path | None

    def own(self, family: str) -> Mapping[str, Any]:
        """Return the store, and the number of units K."""
        settings = self.protocol.settings_of(self.part, family)
        if self.store is None:
            return settings | {"data.path": ""}
        settings |= {"data.path": str(self.store), "data.digest": digest_of_store(self.store)}
        if family in planning.AT_MOST_WIDTH:
            width = ActivationDataModule(self.store).in_features
            settings["model.hidden"] = min(settings["model.hidden"], width)
        return settings

    def planned(self) -> list[Run]:
        """Return the runs of the grids, a final of each family, and the controls."""
        finals = self.possible_finals(**{L0: max(self.protocol.l0)})
        return [*self.grids(), *finals, *self.controls()]

    def at_each_l0(self, chosen: Sequence[planning.Setting]) -> list[Run]:
        """Return the runs of chosen settings, once per L0 and seed."""
        return [run for l0 in self.protocol.l0 for run in self.finals(chosen, **{L0: l0})]

    def permuted(self, chosen: Sequence[planning.Setting], store: Path) -> list[Run]:
        """Return the runs of chosen settings on another store, once per seed."""
        some = [setting for setting in chosen if setting.family in self.protocol.permuted]
        return replace(self, store=store).finals(some, **{L0: self.protocol.tuning[L0]})


class LanguagePart(TunedPart[LanguageProtocol]):
    """Every family on the activations of one language model.

    Args:
        stages: its runs; their store lies in ``directory``, and so does that of the model with
            permuted weights, if there are runs on it.
        lm: where the language model is.
    """

    package = "implicit_em_studies.language"

    def __init__(
        self, stages: LanguageStages, lm: LanguageModelSettings, request: Request, trial: str | None
    ) -> None:
        self.stages, self.name, self.lm = stages, stages.part, lm
        protocol = stages.protocol
        fixed = protocol.model_dump(exclude={*protocol.not_hashed, "parts"})
        fixed |= {"part": protocol.parts[self.name]}
        every = chain(stages.settings, stages.control_settings)
        identity = digest((setting.cfg for setting in every), fixed)
        folders = request.directory / self.name, request.conf
        super().__init__(protocol, identity, *folders, trial, ["language", self.name])

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
        kept = self.trained(grids, workers, f"{self.name}: every setting")
        tuning = measuring.tuning_table(grids)
        chosen = choose(reaching(tuning), {"validation": f"-{self.protocol.criterion}"})
        settings = self.stages.picked(chosen)
        every = f"{self.name}: every final"
        finals = self.trained(self.stages.at_each_l0(settings), workers, every)
        if not any(run.metrics()[REACHED] for run in finals):
            raise RunError(
                f"{self.name}: no final ends within 5 % of its model.l0, so none is compared; "
                "more steps bring them nearer"
            )
        variants = self.stages.at_each_l0(self.stages.varied(settings))
        variants = self.kept(variants, workers)
        permuted = self.stages.permuted(settings, self.directory / "permuted")
        permuted = self.trained(permuted, workers, every) if permuted else []
        with working(f"{self.name}: measuring finals and controls"):
            measured = (
                self._finals(finals, workers),
                pd.concat([self._controls(controls, workers), self._finals(variants, workers)]),
                self._measured(permuted, workers),
            )
            tuned_at = self.protocol.tuning[L0]
            alike = measuring.stabilities([r for r in finals if r.cfg.model.l0 == tuned_at])
        results = LanguageResults(self.protocol, tuning, chosen, *measured, alike)
        runs = [*finals, *permuted, *kept, *controls, *variants]
        cfg = finals[0].cfg
        weights = "/".join(filter(None, (self.lm.package, self.lm.path)))
        passes, training = cfg.trainer.max_epochs, planning.training_of(runs)
        content = LanguageContent(results, self.name, weights, cfg.data, passes, training)
        return self.write(content, runs, command)

    def _finals(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        """Measure the finals, inside the language model if it is causal."""
        table = self._measured(runs, workers)
        if table.empty or not self.protocol.parts[self.name][CAUSAL]:
            return table
        losses = measuring.losses_of_all(runs, self.lm, self.protocol.tokens)
        return table.merge(losses, on=["family", "settings", "seed", "run"])

    def _measured(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        table = measuring.quality_of(self.protocol.tokens).of(runs, workers)
        return table.assign(target=[run.cfg.model.l0 for run in runs])

    def _controls(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        """Measure the controls with as many entries of a code as each L0."""
        tokens, l0 = self.protocol.tokens, self.protocol.l0
        tables = [measuring.quality_of(tokens, k).of(runs, workers).assign(target=k) for k in l0]
        return pd.concat(tables, ignore_index=True)


def reaching(tuning: pd.DataFrame) -> pd.DataFrame:
    """Return the settings that end near their L0, and all of a family that has none.

    With more active units than the others, a setting would be chosen for these.
    """
    reached = tuning[REACHED].eq(True)
    return tuning[reached | ~reached.groupby(tuning["family"]).transform("any")]


def _prepare(
    protocol: LanguageProtocol, request: Request, overrides: Sequence[str], trial: str | None
) -> list[LanguagePart]:
    """Compose the runs of all parts and check them; harvest what is missing."""
    names, conf = [name for (name,) in protocol.chosen(request.words)], request.conf
    log.info("composing the runs of %s", ", ".join(protocol.families))
    always = ["data=activations", "data.digest=null", *overrides]
    settings, controls = (
        planning.compose_settings(families, protocol.grids, conf, always)
        for families in (protocol.families, protocol.controls)
    )
    folders = {name: request.directory / name for name in names}
    stages = {
        name: LanguageStages(protocol, name, folder / "runs", settings, controls, folder / "store")
        for name, folder in folders.items()
    }
    for name, folder in folders.items():
        if not (folder / "store").exists():  # a mistake is found before hours of harvesting
            planning.check_all(replace(stages[name], store=None).planned(), here=False)
            lm = _harvest(protocol, name, folder / "store", conf).lm
            if protocol.parts[name][CAUSAL]:
                CausalModel.load(lm, "cpu")  # refuses one that reads ahead
    prepared = []
    for name, folder in folders.items():
        lm = _harvest(protocol, name, folder / "store", conf, make=True).lm
        if protocol.permuted:
            _harvest(protocol, name, folder / "permuted", conf, "lm.permuted=0", make=True)
        prepared.append(LanguagePart(stages[name], lm, request, trial))
    return prepared


def _harvest(
    protocol: LanguageProtocol, part: str, store: Path, conf: Path, *more: str, make: bool = False
) -> HarvestSettings:
    """Return the settings of a part's harvest, and make its store unless it is complete.

    Raises:
        ConfigError: if a setting, the model or the text is refused.
    """
    overrides = [*protocol.parts[part][HARVEST], *more, f"store={store}"]
    cfg = composed("harvest", overrides, conf)
    if make:
        harvest(cfg)
    return HarvestSettings.of(cfg)


STUDY = TunedStudy(
    name="language",
    directory=Path("results/language"),
    purpose="Harvest activations of language models, tune all families on them, train the chosen "
    "settings over seeds, and measure them, inside the model if it is causal.",
    metavar="MODEL | FAMILY | KEY=VALUE",
    words="language models and families of conf/language.yaml (all if none is named), keys of that "
    "file, e.g. seeds=[1,2] or parts.minilm.model.hidden=1024, or settings of all runs. Any "
    "KEY=VALUE makes it a trial",
    quick="a trial of three families on a small harvest, in about ten minutes",
    needs=LanguageProtocol.file,
    protocol=LanguageProtocol,
    prepare=_prepare,
)
