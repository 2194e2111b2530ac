"""What can be measured inside the language model that samples come from."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from implicit_em.base.errors import ConfigError
from implicit_em.base.progress import working
from implicit_em.language.absorption import Absorption, word_sets, words_of
from implicit_em.language.effects import Effects, both_ends
from implicit_em.language.hooks import metadata_of
from implicit_em.language.labelled import LabelledSet, LabelledTexts, read_sets
from implicit_em.language.metrics import measured_inside
from implicit_em.language.model_files import model_of
from implicit_em.language.models import CausalModel, LanguageModel
from implicit_em.language.probing import Probing
from implicit_em.language.settings import LanguageModelSettings
from implicit_em.language.splicing import Moved, Splice, spliced_losses
from implicit_em.language.steering import Steering, check
from implicit_em.language.store import Split
from implicit_em.language.trials import SteerTrial, TextTrial
from implicit_em.models.normalizing import Normalized
from implicit_em.trained.activity import Unit
from implicit_em.trained.reading import OUTPUTS, Trained
from implicit_em.viewer.features import Ablations
from implicit_em.viewer.seen import short
from implicit_em.viewer.trying import Trial

if TYPE_CHECKING:
    from implicit_em.language.activations import ActivationDataModule

log = logging.getLogger(__name__)

PROBES = OUTPUTS / "probes"
"""Folder that keeps what a language model has at the last token of labelled texts and prompts."""
NONE = "no effects on logits are shown: %s"


class Inside:
    """The language model that the samples of a store come from, and what is measured in it.

    Args:
        data: data module of the store.
        purpose: what it is needed for, as the start of an error's message.
        lm: folder, GGUF file or hub name of the language model, or its settings; ``None`` for the
            place that ``conf/lm`` names.
    """

    def __init__(
        self,
        data: "ActivationDataModule",
        purpose: str,
        lm: str | LanguageModelSettings | None = None,
    ) -> None:
        self.data, self.purpose, self.lm = data, purpose, lm

    @cached_property
    def settings(self) -> LanguageModelSettings:
        """Settings of the language model.

        Raises:
            ConfigError: if the language model is not there, or is another.
        """
        if isinstance(self.lm, LanguageModelSettings):
            return self.lm
        return model_of(self.data.store.manifest, self.lm)

    @property
    def model(self) -> CausalModel:
        """The language model on the CPU; raises as ``settings``, and if it is not causal."""
        return _loaded(self.settings)

    def splice(self, site: str, reads: Sequence[str] = ()) -> Splice:
        """Return where vectors are replaced at a site: for tokens that the data keep.

        Args:
            site: the site.
            reads: sites whose vectors, side by side, a replacement gets; by default the site.
        """
        return Splice(site, self.data.rule, self.data.store.manifest.special_tokens, reads)

    def check_length(self) -> None:
        """Raise ``ConfigError`` if the samples have no length, so no vector can be put back."""
        if self.data.normalizer is not None and self.data.normalizer.mean is None:
            raise ConfigError(
                f"{self.purpose}: data.normalize=l2 leaves no length to put into the model"
            )

    def metadata(self) -> dict[str, Any]:
        """Return what SAELens wants to know about the vectors of a sample, and of its target."""
        data, manifest = self.data, self.data.store.manifest
        found = metadata_of(manifest, data.site)
        if data.out_features is not None:
            (target,) = data.parts
            found["hook_name_out"] = metadata_of(manifest, target)["hook_name"]
        return found

    def losses(self, coder: Normalized, final: Split) -> dict[str, float]:
        """Return what the language model predicts with reconstructions in place of its vectors.

        Sites of a crosscoder are replaced one at a time, and named in the keys.

        Args:
            coder: the model of samples, with a decoder.
            final: split of the samples that are measured, ``test`` or ``validation``.

        Returns:
            The values of ``metrics.INSIDE``.

        Raises:
            ConfigError: if the language model is not there or not causal, or if the samples have
                no length.
        """
        self.check_length()
        data, measured = self.data, dict[str, float]()
        for site, columns in data.parts.items():
            what = (site, data.rule, {"": lambda x_ND, c=columns: coder(x_ND)[:, c]})
            shown = f"measuring inside the language model, {site}"
            losses = spliced_losses(
                data.store, self.model, *what, final, reads=data.sites, shown=shown
            )
            ((spliced_N, divergence_N),) = losses.spliced.values()
            sums = (losses.predicted_N, losses.clean_N, losses.zero.loss_N, spliced_N, divergence_N)
            values = measured_inside(*(values_N.sum().item() for values_N in sums))
            end = f".{site}" if len(data.parts) > 1 else ""
            measured |= {f"{key}{end}": float(value) for key, value in values.items()}
        return measured

    def probing(self, sets: Sequence[str], folder: Path = PROBES) -> Probing:
        """Return sparse probing on labelled sets, at the sites that the samples are from.

        Args:
            sets: names of the sets; none for all.
            folder: folder that keeps the vectors of the texts.

        Raises:
            ConfigError: if there is no such set, or a package is missing.
        """
        return Probing(self._texts(read_sets(sets), folder, LanguageModel))

    def absorption(self, folder: Path = PROBES) -> Absorption:
        """Return the absorption of first letters, at the residual site that the samples are from.

        Args:
            folder: folder that keeps the vectors of the words.

        Raises:
            ConfigError: if the samples are of another place or have no length, or the vocabulary
                has no words.
        """
        self.check_length()
        data, store = self.data, self.data.store
        if len(data.columns) > 1 or not data.site.startswith("resid"):
            places = ", ".join(data.columns)
            raise ConfigError(f"{self.purpose}: the data are of {places}; allowed is one resid.N")
        words = words_of(store.vocabulary(), store.manifest.special_tokens)
        if len(words) < 2:
            raise ConfigError(f"{self.purpose}: no tokens of {data.store.path} are words of a to z")
        return Absorption(self._texts(word_sets(words), folder, CausalModel))

    def _texts(
        self, sets: Mapping[str, LabelledSet], folder: Path, kind: type[LanguageModel]
    ) -> LabelledTexts:
        def load() -> LanguageModel:
            settings = self.settings
            with working(f"loading {settings.name}"):
                return kind.load(settings, "cpu")

        return LabelledTexts(self.data.store.manifest, self.data.sites, load, sets, folder)

    def effects(self) -> Effects | None:
        """Return the effects of directions on the logits of the next token.

        There are none if the language model is not there, and no place of it was named; none of
        several sites, which are no one place; and none of what an MLP reads, which is no part of
        the residual stream.

        Raises:
            ConfigError: if a place is named where no language model is, or another one.
        """
        data = self.data
        if len(data.sites) > 1 or any(site.startswith("mlpin") for site in data.parts):
            return None
        try:
            _ = self.settings
        except ConfigError as error:
            if self.lm is not None:
                raise
            log.info(NONE, error)
            return None
        return Effects(lambda: self.causal, data.normalizer, data.out_features)

    @cached_property
    def causal(self) -> CausalModel | None:
        """The language model; ``None`` if it is not causal, which a line says."""
        try:
            return self.model
        except ConfigError as error:
            log.info(NONE, error)
            return None

    def ablations(self, found: Trained, units: Sequence[int]) -> Ablations:
        """Return what setting some units to 0 changes; each is measured once.

        Args:
            found: the trained model.
            units: numbers of its units.

        Raises:
            ConfigError: if a unit is out of range, the language model is not there or not causal,
                or the samples have no length.
        """
        check(found.model, dict.fromkeys(units, 0.0), "set")
        steering, known = Steering.of(found), dict[int, dict[str, Any] | None]()
        model = self.model

        def ablated(unit: Unit) -> dict[str, Any] | None:
            if unit.number in units and unit.number not in known:
                with working(f"ablating feature {unit.number}"):
                    moved = steering.ablated(model, unit.number, torch.from_numpy(unit.samples_E))
                known[unit.number] = moved and _shown(moved)
            return known.get(unit.number)

        return ablated

    def trials(self, found: Trained) -> dict[str, Trial]:
        """Return what can be tried with a trained model, by names; raises as ``settings``.

        It is ``encode`` and, with a causal language model, ``steer``.
        """
        settings = self.settings  # before ``causal``, which would only say that it is not there
        if (model := self.causal) is None:
            reader = LanguageModel.load(settings, "cpu")
            reader.stop_after(self.data.columns)
            return {"encode": TextTrial(found.coder, self, reader)}
        trials: dict[str, Trial] = {"encode": TextTrial(found.coder, self, model)}
        with suppress(ConfigError):  # of several sites, say
            trials["steer"] = SteerTrial(Steering.of(found), model)
        return trials


@lru_cache(maxsize=1)
def _loaded(lm: LanguageModelSettings) -> CausalModel:
    """Return a language model on the CPU; the last one is kept."""
    with working(f"loading {lm.name}"):
        return CausalModel.load(lm, "cpu")


def _shown(moved: Moved) -> dict[str, Any]:
    """Return what a page shows of an ablation; see ``viewer.features.Ablations``."""
    more, less = both_ends(moved.chances_V)
    counts = {"contexts": moved.contexts, "tokens": moved.tokens, "loss": short(moved.loss)}
    return {**counts, "more": more, "less": less}
