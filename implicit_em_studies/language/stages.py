"""The runs on the activations of one language model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from implicit_em.base.digest import digest_of_store
from implicit_em.data import ActivationDataModule
from implicit_em_studies.language.protocol import L0, Protocol
from implicit_em_studies.shared import stages
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.stages import Setting

AT_MOST_WIDTH = ("pca", "ica")
"""Controls that have no more units than inputs."""


@dataclass
class Stages(stages.Stages[Protocol]):
    """The runs of each stage on one store; ``part`` names the language model.

    Without a store, which is yet to be harvested, runs can be checked and not trained.
    """

    store: Path | None

    def own(self, family: str) -> Mapping[str, Any]:
        """Return the store, and the number of units K."""
        settings = self.protocol.settings_of(self.part)
        if self.store is None:
            return settings | {"data.path": ""}
        settings |= {"data.path": str(self.store), "data.digest": digest_of_store(self.store)}
        if family in AT_MOST_WIDTH:
            width = ActivationDataModule(self.store).in_features
            settings["model.hidden"] = min(settings["model.hidden"], width)
        return settings

    def planned(self) -> list[Run]:
        """Return the runs of the grids, a final of each family, and the controls."""
        finals = self.possible_finals(**{L0: max(self.protocol.l0)})
        return [*self.grids(), *finals, *self.controls()]

    def at_each_l0(self, chosen: Sequence[Setting]) -> list[Run]:
        """Return the runs of chosen settings, once per L0 and seed."""
        return [run for l0 in self.protocol.l0 for run in self.finals(chosen, **{L0: l0})]

    def permuted(self, chosen: Sequence[Setting], store: Path) -> list[Run]:
        """Return the runs of chosen settings on another store, once per seed."""
        some = [setting for setting in chosen if setting.family in self.protocol.permuted]
        return replace(self, store=store).finals(some, **{L0: self.protocol.tuning[L0]})
