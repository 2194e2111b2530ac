"""The study of language models: what it runs on the activations of each, and what it writes."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from implicit_em.base.errors import ConfigError
from implicit_em.base.progress import working
from implicit_em.config.composing import composed
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.configuration import digest_of_store
from implicit_em.language.harvest import harvest
from implicit_em.language.models import CausalModel
from implicit_em.language.settings import HarvestSettings, LanguageModelSettings
from implicit_em.language.store import ActivationStore, is_whole
from implicit_em.metrics.dictionaries import stability
from implicit_em_studies.language import measuring
from implicit_em_studies.language.choice import beyond, choose
from implicit_em_studies.language.protocol import (
    CAUSAL,
    HARVEST,
    L0,
    REACHED,
    TUNED,
    LanguageProtocol,
)
from implicit_em_studies.language.results import LanguageResults
from implicit_em_studies.shared import planning
from implicit_em_studies.shared.runs import Run, directions_of
from implicit_em_studies.shared.study import Request
from implicit_em_studies.shared.tuned import Tuned, TunedPart, TunedStudy

log = logging.getLogger(__name__)
Stages = planning.Stages[LanguageProtocol]


def stages_of(
    protocol: LanguageProtocol,
    part: str,
    directory: Path,
    settings: Sequence[planning.Setting],
    controls: Sequence[planning.Setting],
) -> Stages:
    """Return the runs of a part without a store, which can be checked and not trained."""

    def own(family: str) -> Mapping[str, Any]:
        return protocol.settings_of(part, family) | {"data.path": ""}

    return Stages(part, protocol, directory / "runs", settings, controls, own)


def on_store(stages: Stages, store: Path) -> Stages:
    """Return the runs of a part on a store."""
    at = {"data.path": str(store), "data.digest": digest_of_store(store)}
    inputs = ActivationDataModule(store).in_features
    return replace(stages, own=lambda family: {**stages.own(family), **at}, inputs=inputs)


class LanguagePart(TunedPart[LanguageProtocol]):
    """Every family on the activations of one language model."""

    lm: LanguageModelSettings
    """Where the language model is."""
    permuted: Stages | None
    """Runs on the model with permuted weights, if there are any."""

    def planned(self) -> Iterator[Run]:
        """Yield one setting of each family, checked with all before; refuse a small store.

        A store is refused that has too few tokens, or a single source.
        """
        (stages,) = self.stages
        families = planning.one_of_each_family(stages.settings)
        every = replace(stages, settings=families).planned()
        for run in {run.cfg.data.final: run for run in every if not run.completed}.values():
            data = run.spec.build_data()
            assert isinstance(data, ActivationDataModule)
            documents_N = data.column("document", data.final)
            sources, _ = measuring.sources_of(data, documents_N, self.protocol.source)
            if len(sources) < 2:
                raise ConfigError(
                    f"source={self.protocol.source}: {self.name} has one, so there is nothing to "
                    "draw; name another label of the documents"
                )
        yield from every

    def tune(self, grids: Sequence[Run], workers: int) -> pd.DataFrame:
        """Return what the runs measured of themselves."""
        return planning.tuning_table(grids, TUNED, [REACHED]).drop(columns="seed")

    def choose(self, tuning: pd.DataFrame) -> pd.DataFrame:
        """Return the setting of each family with the least FVU at several L0."""
        return choose(tuning)

    def tuned_in(self, stages: Stages, tuned: Tuned[LanguageProtocol], workers: int) -> list[Any]:
        """Extend the grids once where the best setting is at an end, and go on with them.

        The column ``at an end`` of what is chosen names the axes that the best setting still ends.
        """
        grids = stages.grids()
        self.trained(grids, workers, f"{stages.name}: every setting")
        picked = stages.picked(self.choose(self.tune(grids, workers)))
        more = [new for one in picked for new in beyond(stages.settings, one)]
        place = self.protocol.families.index
        every = sorted([*stages.settings, *more], key=lambda one: place(one.family))
        wider = replace(stages, settings=every)
        planning.check_all(wider.grids())
        self.stages = [wider]
        tuning, chosen, *measured = super().tuned_in(wider, tuned, workers)
        ends = {
            one.family: ", ".join(
                key.removesuffix(".value").removesuffix(".weight").rpartition(".")[2]
                for new in beyond(wider.settings, one)
                for key in new.axes
                if new.axes[key] != one.axes[key]
            )
            for one in wider.picked(chosen)
        }
        return [tuning, chosen.assign(**{"at an end": chosen["family"].map(ends)}), *measured]

    def measure(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        """Return the measurements of runs, inside the language model if it is causal."""
        table = self._measured(runs, workers)
        if table.empty or not self.protocol.parts[self.name][CAUSAL]:
            return table
        losses = measuring.losses_of_all(runs, self.lm, self.protocol.tokens, self.protocol.source)
        return table.merge(losses, on=["family", "settings", "seed", "run"])

    def _measured(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        quality = measuring.quality_of(self.protocol.tokens, self.protocol.source)
        return quality.of(runs, workers).assign(target=[run.cfg.model.l0 for run in runs])

    def measure_controls(
        self, controls: Sequence[Run], variants: Sequence[Run], workers: int
    ) -> pd.DataFrame:
        """Measure the controls with as many entries of a code as each L0, and the variants."""
        about = self.protocol.tokens, self.protocol.source
        tables = [
            measuring.quality_of(*about, k).of(controls, workers).assign(target=k)
            for k in self.protocol.l0
        ]
        return pd.concat([*tables, self.measure(variants, workers)]).astype({"target": int})

    def results(self, tuned: Tuned[LanguageProtocol], workers: int) -> Iterator[LanguageResults]:
        """Train the families on permuted weights; yield what the report shows.

        Learning curves take long: they are trained behind a first report.
        """
        (stages,), shown_at = self.stages, self.protocol.tuned_at[0]
        settings = [s for s in stages.picked(tuned.tables[1]) if s.family in self.protocol.permuted]
        permuted: list[Run] = []
        if self.permuted:
            finals = self.permuted.finals(settings, [{L0: shown_at}])
            permuted = self.trained(
                finals, workers, f"{self.name}: every final on permuted weights"
            )
        tuned.others += permuted
        shown = [run for run in tuned.finals if run.cfg.model.l0 == shown_at]
        cfg = tuned.finals[0].cfg
        content = LanguageResults.of(
            tuned,
            permuted=self._measured(permuted, workers),
            name=self.name,
            stability=self._stability(shown),
            learning={},
            benchmarks=self._benchmarks(shown),
            readings=self._readings(shown),
            weights="/".join(filter(None, (self.lm.package, self.lm.path))),
            data=cfg.data,
            passes=cfg.trainer.max_epochs,
        )
        yield content
        if learning := dict(self._learning(tuned, workers)):
            yield replace(content, learning=learning)

    def _learning(
        self, tuned: Tuned[LanguageProtocol], workers: int
    ) -> Iterator[tuple[int, pd.DataFrame]]:
        """Train some families on larger harvests; yield the finals at one L0 by their tokens."""
        (stages,), about, level = self.stages, self.protocol.learning, self.protocol.tuned_levels[0]
        if about is None or self.name not in about.parts:
            return
        of_families = stages.picked(tuned.tables[1])
        chosen = [one for one in of_families if one.family in about.families]
        own, finals = _tokens_of(self.directory / "store"), tuned.tables[2]
        names = finals["family"].isin(about.families)
        yield own, finals[names & (finals["target"] == level[L0])]
        for most, seeds in about.parts[self.name].items():
            store = self.directory / f"store-{most}"
            _harvest(self.protocol, self.name, store, self.conf, f"tokens={most}", make=True)
            tokens = _tokens_of(store)
            protocol = self.protocol.model_copy(update={"seeds": seeds, "seeds_of": {}})
            larger = replace(on_store(stages, store), protocol=protocol)
            slower = [_slower(one, (own / tokens) ** about.power) for one in chosen]
            every = f"{self.name}: every final on {tokens:,} tokens"
            runs = self.trained(larger.finals(slower, [level]), workers, every)
            tuned.others += runs
            yield tokens, self.measure(runs, workers)

    def _stability(self, finals: Sequence[Run]) -> pd.DataFrame:
        """Return how alike the directions are that some seeds of each family find."""
        found: dict[str, list[np.ndarray]] = {}
        for run in finals:
            if run.cfg.seed in self.protocol.seeds:
                found.setdefault(run.sweep, []).append(directions_of(run.model()))
        with working(f"{self.name}: matching units between seeds"):
            rows = [(family, stability(seeds)) for family, seeds in found.items()]
        return pd.DataFrame(rows, columns=["family", "stability"])

    def _benchmarks(self, finals: Sequence[Run]) -> pd.DataFrame:
        """Return what the benchmarks of the field measure of the finals of some seeds."""
        runs = [run for run in finals if run.cfg.seed in self.protocol.seeds]
        folder, sets = self.directory / "probes", self.protocol.probed_sets
        table = pd.DataFrame([planning.row_of(run) for run in runs])
        if sets:
            table = table.merge(measuring.probes_of_all(runs, self.lm, sets, folder))
        if self.protocol.parts[self.name][CAUSAL]:
            table = table.merge(measuring.absorption_of_all(runs, self.lm, folder))
        return table

    def _readings(self, finals: Sequence[Run]) -> pd.DataFrame:
        """Return what codes of more sweeps explain and cost, of the finals of some seeds."""
        runs = [run for run in finals if run.cfg.seed in self.protocol.seeds]
        sweeps, most = self.protocol.read_sweeps, self.protocol.tokens.read
        return measuring.readings_of(runs, sweeps, most) if sweeps else pd.DataFrame()


def _tokens_of(store: Path) -> int:
    return ActivationStore(store).manifest.text["tokens"]


def _slower(setting: planning.Setting, factor: float) -> planning.Setting:
    """Return a setting whose rate is multiplied by a factor."""
    cfg = setting.cfg.copy()
    cfg.lr.value = float(f"{factor * cfg.lr.value:.4g}")
    return setting._replace(cfg=cfg)


def _prepare(
    protocol: LanguageProtocol, request: Request, overrides: Sequence[str], trial: str | None
) -> list[LanguagePart]:
    """Compose the runs of all parts and check them; harvest what is missing."""
    conf = request.conf
    log.info("composing the runs of %s", ", ".join(protocol.families))
    always = ["data=activations", "data.digest=null", *overrides]
    settings, controls = (
        planning.compose_settings(families, protocol.grids, conf, always)
        for families in (protocol.families, protocol.controls)
    )
    folders = {name: request.directory / name for (name,) in protocol.chosen(request.words)}
    every = {
        name: stages_of(protocol, name, folder, settings, controls)
        for name, folder in folders.items()
    }
    for name, folder in folders.items():
        log.info("%s: checking the runs", name)
        harvested = is_whole(folder / "store")
        stages = on_store(every[name], folder / "store") if harvested else every[name]
        left = [run for run in stages.planned() if not run.completed]
        planning.check_all(left, here=False)  # a mistake is found before hours of harvesting
        if not harvested:
            lm = _harvest(protocol, name, folder / "store", conf).lm
            if protocol.parts[name][CAUSAL]:
                CausalModel.load(lm, "cpu")  # refuses one that reads ahead
    prepared = []
    for name, folder in folders.items():
        lm = _harvest(protocol, name, folder / "store", conf, make=True).lm
        if protocol.permuted:
            _harvest(protocol, name, folder / "permuted", conf, "lm.permuted=0", make=True)
        stages = on_store(every[name], folder / "store")
        tags = ["language", name]
        part = LanguagePart(name, [stages], [*settings, *controls], request, folder, trial, tags)
        part.lm = lm
        part.permuted = on_store(every[name], folder / "permuted") if protocol.permuted else None
        prepared.append(part)
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
