"""Matryoshka: nested dictionaries in one model."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from implicit_em.base.errors import ConfigError
from implicit_em.base.placement import numbers_like
from implicit_em.codes import Code, Pattern
from implicit_em.models.batch_topk import BatchTopK


class Matryoshka(BatchTopK):
    """BatchTopK whose first units reconstruct alone, too (Bussmann et al. 2025, arXiv 2503.17547).

    A small dictionary needs general features, and a large one splits them into special ones. Here
    one model holds dictionaries of several widths, each a prefix of the next. The loss has the
    error of each, so that the first units stay general.

    Args:
        in_features: width D of the input.
        hidden: number of hidden units K.
        prefixes: shares of the units that reconstruct alone, in rising order.
        kwargs: further arguments of ``BatchTopK``.

    Raises:
        ValueError: if the prefixes do not have more and more of the units, or ``BatchTopK`` refuses
            its arguments.
    """

    takes_stacks = folds = steps_sparsely = True
    provides: ClassVar[tuple[str, ...]] = (*BatchTopK.provides, "prefixes")

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        *,
        prefixes: Sequence[float] = (0.0625, 0.125, 0.25, 0.5),
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, hidden, **kwargs)
        if self.swept:
            self._refuse_sweeps("allowed is 1, 1, 0: a prefix would need sweeps of its own")
        self.widths = [*_widths(prefixes, hidden), hidden]
        if any(before >= after for before, after in pairwise([0, *self.widths])):
            raise ConfigError(
                f"prefixes={prefixes}: allowed are lists of rising shares between 0 and 1, "
                f"which make 1 to {hidden - 1} of {hidden} units"
            )

    def _outputs(self, activations: Any, **others: Any) -> dict[str, Any]:
        prefixes = self._parts(activations).cumsum(-2) + self.decoder.bias[..., None, None, :]
        return {
            "energies": activations,
            "reconstruction": prefixes[..., -1, :],
            "prefixes": prefixes,
            "decoder": self.decoder.weight,
            **others,
        }

    def _parts(self, activations: Tensor | Code) -> Tensor:
        """Return what the units between two widths add, shape ``(..., B, P, D)``."""
        columns = self.decoder.weight
        if isinstance(activations, Tensor):
            slices = [slice(*ends) for ends in pairwise([0, *self.widths])]
            return torch.stack([activations[..., s] @ columns[..., s].mT for s in slices], -2)
        # One product for all: a row of the code becomes a row for each part.
        pattern, parts = activations.pattern, len(self.widths)
        samples, units = pattern.shape
        ends = numbers_like(columns, self.widths, torch.int64)
        part_N = torch.bucketize(pattern.column_N, ends, right=True)
        split = Pattern((samples * parts, units), pattern.row_N * parts + part_N, pattern.column_N)
        return (Code(activations.values_N, split) @ columns.mT).view(samples, parts, -1)


def _widths(prefixes: Any, hidden: int) -> list[int]:
    """Return the number of units of each prefix; ``[0]``, which is refused, for other values."""
    listed = isinstance(prefixes, Sequence) and not isinstance(prefixes, str)
    if not listed or not all(isinstance(share, float) and 0 < share < 1 for share in prefixes):
        return [0]
    return [round(share * hidden) for share in prefixes]
