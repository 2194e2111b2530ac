"""Tokens that directions promote and suppress, in a causal language model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from implicit_em.language.models import CausalModel, extremes
from implicit_em.models.normalizing import Normalizer
from implicit_em.viewer.seen import short


@dataclass(frozen=True)
class Effects:
    """The direct effects of directions on the logits of the next token.

    Args:
        find: function that returns the language model whose vectors are encoded, ``None`` for one
            that is not causal; it is called on first use.
        normalizer: normaliser of these vectors; ``None`` for none.
        out_features: width of a target that is not the input.
    """

    find: Callable[[], CausalModel | None]
    normalizer: Normalizer | None
    out_features: int | None

    def __call__(self, encoder_BD: np.ndarray, directions_BD: np.ndarray) -> list[Any]:
        """Return, for each unit, what its encoder row and its direction promote and suppress.

        The samples of the model are ``A (x - mean)``. A direction d there is ``A^-1 d`` among the
        vectors x. A row w reads x along ``A^T w``. With a target, a row reads another place than
        the direction writes to, which need not be in the residual stream: the row is left out.
        """
        if (model := self.find()) is None:
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
