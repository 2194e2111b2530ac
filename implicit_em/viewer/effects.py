"""Tokens that directions promote and suppress, in a causal language model."""

import logging
from typing import Any

import numpy as np
import torch

from implicit_em.base.errors import ConfigError
from implicit_em.data import ActivationDataModule
from implicit_em.harvest.model_files import model_of
from implicit_em.harvest.models import CausalModel
from implicit_em.training.progress import working
from implicit_em.viewer.seen import short

log = logging.getLogger(__name__)

MOST = 8
"""Number of tokens that are shown on each side."""


class Effects:
    """The direct effects of directions on the logits of the next token.

    Args:
        model: the causal model whose vectors are encoded.
        normalizer: normaliser of these vectors; ``None`` for none.
    """

    def __init__(self, model: CausalModel, normalizer: Any) -> None:
        self.model, self.normalizer = model, normalizer

    @classmethod
    def of(cls, data: ActivationDataModule, path: str | None = None) -> "Effects | None":
        """Return the effects in the model that a store was harvested from.

        There are none if the model is not causal, or not there.

        Args:
            data: data module of the store.
            path: folder, GGUF file or name on the hub; ``None`` for the place that ``conf/lm``
                names.

        Raises:
            ConfigError: if a path is given where no model is, or another one.
        """
        is_known = path is None
        try:
            lm = model_of(data.store.manifest, path)
            is_known = True  # from here on, it is the right model, which may not be causal
            with working(f"loading {lm.name}"):
                return cls(CausalModel.load(lm, "cpu"), data.normalizer)
        except ConfigError as error:
            if not is_known:
                raise
            log.info("no effects on logits are shown: %s", error)
            return None

    def of_block(self, encoder_BD: np.ndarray, directions_BD: np.ndarray) -> list[dict[str, Any]]:
        """Return, for each unit, what its encoder row and its direction promote and suppress.

        The samples of the model are ``A (x - mean)``. A direction d there is ``A^-1 d`` among the
        vectors x. A row w reads x along ``A^T w``.
        """
        row_BD, direction_BD = (torch.from_numpy(some) for some in (encoder_BD, directions_BD))
        if self.normalizer is not None and self.normalizer.mean is not None:
            row_BD = self.normalizer.turned(row_BD)
            direction_BD = self.normalizer.turned_back(direction_BD)
        rows, directions = self._extremes(row_BD), self._extremes(direction_BD)
        return [{"encoder": row, "direction": d} for row, d in zip(rows, directions, strict=True)]

    def _extremes(self, vectors_BD: torch.Tensor) -> list[list[list[Any]]]:
        """Return the tokens with the largest and the smallest effects of vectors of length 1."""
        unit_BD = torch.nn.functional.normalize(vectors_BD.float(), dim=-1)
        effects_BV = self.model.effects(unit_BD)
        most = min(MOST, effects_BV.shape[1])
        sides = [effects_BV.topk(most, largest=largest) for largest in (True, False)]
        return [
            [[side.indices[b].tolist(), list(map(short, side.values[b]))] for side in sides]
            for b in range(len(vectors_BD))
        ]
