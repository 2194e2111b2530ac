"""Tokens that directions promote and suppress, in a causal language model."""

import logging
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from implicit_em.base.errors import ConfigError
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.model_files import model_of
from implicit_em.language.models import CausalModel, extremes
from implicit_em.language.settings import LanguageModelSettings
from implicit_em.training.progress import working
from implicit_em.viewer.seen import short

log = logging.getLogger(__name__)

NONE = "no effects on logits are shown: %s"


@lru_cache(maxsize=1)
def causal_model(lm: LanguageModelSettings) -> CausalModel | None:
    """Return a language model on the CPU; ``None`` if it is not causal. The last one is kept."""
    with working(f"loading {lm.name}"):
        try:
            return CausalModel.load(lm, "cpu")
        except ConfigError as error:
            log.info(NONE, error)
            return None


class Effects:
    """The direct effects of directions on the logits of the next token.

    Args:
        lm: settings of the language model whose vectors are encoded; it is loaded on first use.
        normalizer: normaliser of these vectors; ``None`` for none.
        out_features: width of a target that is not the input.
    """

    def __init__(
        self, lm: LanguageModelSettings, normalizer: Any, out_features: int | None = None
    ) -> None:
        self.lm, self.normalizer, self.out_features = lm, normalizer, out_features

    @classmethod
    def of(cls, data: ActivationDataModule, path: str | None = None) -> "Effects | None":
        """Return the effects in the model that a store was harvested from.

        There are none if the model is not there; none of several sites, which are no one place; and
        none of what an MLP reads, which is no part of the residual stream.

        Args:
            data: data module of the store.
            path: folder, GGUF file or name on the hub; ``None`` for the place that ``conf/lm``
                names.

        Raises:
            ConfigError: if a path is given where no model is, or another one.
        """
        if len(data.sites) > 1 or any(site.startswith("mlpin") for site in data.parts):
            return None
        try:
            return cls(model_of(data.store.manifest, path), data.normalizer, data.out_features)
        except ConfigError as error:
            if path is not None:
                raise
            log.info(NONE, error)
            return None

    def of_block(self, encoder_BD: np.ndarray, directions_BD: np.ndarray) -> list[Any]:
        """Return, for each unit, what its encoder row and its direction promote and suppress.

        The samples of the model are ``A (x - mean)``. A direction d there is ``A^-1 d`` among the
        vectors x. A row w reads x along ``A^T w``. With a target, it reads another place than the
        direction writes to, which need not be in the residual stream: it is left out.
        """
        if (model := causal_model(self.lm)) is None:
            return [None] * len(encoder_BD)
        row_BD, direction_BD = (torch.from_numpy(some) for some in (encoder_BD, directions_BD))
        if self.normalizer is not None and self.normalizer.mean is not None:
            of_input, of_target = self.normalizer.sides(self.out_features)
            row_BD, direction_BD = of_input.turned(row_BD), of_target.turned_back(direction_BD)
        sides = {"direction": direction_BD} | ({} if self.out_features else {"encoder": row_BD})
        found = {side: _extremes(model, vectors_BD) for side, vectors_BD in sides.items()}
        return [dict(zip(found, unit, strict=True)) for unit in zip(*found.values(), strict=True)]


def _extremes(model: CausalModel, vectors_BD: torch.Tensor) -> list[list[list[Any]]]:
    """Return the tokens with the largest and the smallest effects of vectors of length 1."""
    unit_BD = torch.nn.functional.normalize(vectors_BD.float(), dim=-1)
    return [*map(both_ends, model.effects(unit_BD))]


def both_ends(values_V: torch.Tensor) -> list[list[list[Any]]]:
    """Return the tokens of the largest and of the smallest values, and these as they are shown."""
    return [[ids, [*map(short, values)]] for ids, values in extremes(values_V)]
