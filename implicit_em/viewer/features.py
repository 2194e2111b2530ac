"""Everything that pages show of each unit, as plain data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csc_array, issparse
from scipy.stats import rankdata

from implicit_em.metrics.dictionaries import cosines, norms_at_sites
from implicit_em.trained.activity import BLOCK, Activity, Unit
from implicit_em.viewer import statistics
from implicit_em.viewer.page import render
from implicit_em.viewer.seen import TOKEN, Seen, short

STRONGEST, PARTS, OF_EACH_PART, SILENT = 16, 5, 3, 3
"""Numbers of examples: the strongest, random ones of several parts by rank, and silent ones."""
BINS = 40
"""Number of bins of a unit's histogram, from 0 to its largest activation."""
LABELS = 5
"""Number of labels that are shown of a unit."""
NEAR = 6
"""Number of other units that are shown of a unit."""
TOGETHER = 2**24
"""Largest number of entries on which joint activity is counted."""
DENSE = 1 / 4
"""Density above which dense products count joint activity: faster, and in no more memory."""

Effects = Callable[[np.ndarray, np.ndarray], list[Any]]
"""Function from encoder rows and directions of some units to what is shown of each: what its row
and its direction promote and suppress among the tokens of a language model."""
Ablations = Callable[[Unit], dict[str, Any] | None]
"""Function from a unit to what setting it to 0 changes in a language model; ``None`` for units that
were not asked for, and for dead ones.

The result has the number of ``contexts`` that were read, the number of ``tokens`` there on which
the unit is active, and the change of the ``loss`` in nats for each predicted token. ``more`` and
``less`` are the next tokens that become more and less likely behind the active ones: their ids, and
the changes of their probabilities.
"""


@dataclass(frozen=True)
class Feature:
    """A unit and all that is shown of it; a notebook displays it.

    Args:
        number: number of the unit.
        row: what the table of all units has: ``density``, ``max``, ``mean``, ``label``, ``auroc``
            and, for texts, the ids of ``tokens``.
        shown: examples, labels, neighbours and so on.
        seen: the samples.
    """

    number: int
    row: dict[str, Any]
    shown: dict[str, Any]
    seen: Seen

    def __repr__(self) -> str:
        shares = f"active on {100 * self.row['density']:.3g} % of the samples"
        return f"Feature({self.number}, {shares}, best label {self.row['label'] or 'none'})"

    def _repr_html_(self) -> str:
        vocabulary = self.seen.about().get("vocabulary", [])
        content = {"feature": self, "kind": self.seen.kind, "vocabulary": vocabulary}
        return render("feature.html.j2", **content)


@dataclass(eq=False, repr=False)
class Features(Sequence[Feature]):
    """The units of a run, worked out block by block.

    Args:
        activity: what activates them.
        seen: the samples.
        encoder_KD: rows of the encoder.
        directions_KD: directions that the units stand for, of a decoder.
        effects: effects of directions on a language model's logits; ``None`` if there are none.
        ablations: ablations of some units; ``None`` if there are none.
        sites: columns of the directions at each site. The table of a crosscoder has the norm of a
            direction at each, as ``norm.SITE``.
    """

    activity: Activity
    seen: Seen
    encoder_KD: np.ndarray
    directions_KD: np.ndarray
    effects: Effects | None = None
    ablations: Ablations | None = None
    sites: Mapping[str, slice] = field(default_factory=dict)
    _last: tuple[int, list[Feature]] = field(init=False, default=(-1, []))

    def __len__(self) -> int:
        return self.activity.units

    def __repr__(self) -> str:
        return f"Features({len(self)} units; [12] is one, .table() has them all)"

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        place = range(len(self))[number]
        return self.block(place // BLOCK)[place % BLOCK]

    def best_auroc(self, unit: Unit) -> float | None:
        """Return the AUROC of the label that a unit tells best; ``None`` without labels."""
        labels = self._labels(unit)
        return labels[0][2] if labels else None

    def block(self, number: int) -> list[Feature]:
        """Return the units of a block; the last block that was asked for is kept."""
        if self._last[0] != number:
            self._last = (number, list(self._block(number)))
        return self._last[1]

    def table(self) -> pd.DataFrame:
        """Return a row for each unit; see ``Feature.row``. Tokens are there as text.

        With ablations, ``ablation_loss`` is the change of the loss in nats for each predicted
        token, and ``ablation_less`` and ``ablation_more`` are the tokens that become less and more
        likely; NaN or ``None`` for units that were not asked for, and for dead ones.
        """
        all_units = (unit for units in self.activity for unit in units)
        rows = [
            self._row(unit, self._labels(unit), self.seen.tokens(unit)) | self._ablated(unit)
            for unit in all_units
        ]
        table = pd.DataFrame(rows).rename_axis("feature")
        vocabulary = self.seen.about().get("vocabulary", [])
        for name in {"tokens", "ablation_less", "ablation_more"} & {*table}:
            table[name] = [row and [vocabulary[token] for token in row] for row in table[name]]
        return table

    def _ablated(self, unit: Unit) -> dict[str, Any]:
        """Return the columns of the table that an ablation gives."""
        if self.ablations is None:
            return {}
        found = self.ablations(unit) or {"loss": np.nan, "less": [None], "more": [None]}
        sides = {f"ablation_{side}": found[side][0] for side in ("less", "more")}
        return {"ablation_loss": found["loss"], **sides}

    @cached_property
    def _joint(self) -> "_Joint":
        return _Joint(self.activity)

    def _block(self, number: int) -> Iterator[Feature]:
        units = self.activity.block(number)
        own = [unit.number for unit in units]
        near = _nearest(cosines(self.directions_KD[own], self.directions_KD), own)
        effects: list[Any] = [None] * len(own)
        if self.effects is not None:
            effects = self.effects(self.encoder_KD[own], self.directions_KD[own])
        more = (near, self._joint.with_others(number), effects)
        for unit, *others in zip(units, *more, strict=True):
            row, shown = self._of(unit)
            shown |= zip(("near", "together", "effects"), others, strict=True)
            yield Feature(unit.number, row, shown, self.seen)

    def _of(self, unit: Unit) -> tuple[dict[str, Any], dict[str, Any]]:
        labels, tokens = self._labels(unit), self.seen.tokens(unit)
        row = self._row(unit, labels, tokens)
        values_E = unit.values_E.astype(np.float64)
        counts = np.histogram(values_E, BINS, (0, values_E.max(initial=0) or 1))[0]
        shown = {"histogram": counts.tolist(), "labels": labels, "examples": self._examples(unit)}
        if tokens is not None:
            shown["tokens"] = tokens
        if self.ablations is not None:
            shown["ablation"] = self.ablations(unit)
        return row, shown | self.seen.of_unit(unit, self.encoder_KD[unit.number])

    def _row(
        self, unit: Unit, labels: list[list[Any]], tokens: list[list[Any]] | None
    ) -> dict[str, Any]:
        values_E = unit.values_E.astype(np.float64)
        best = labels[0] if labels else ["", "", None]
        row = {
            "density": short(len(values_E) / self.activity.samples),
            "max": short(values_E.max(initial=0)),
            "mean": short(values_E.mean()) if len(values_E) else 0,
            "label": best[1] if self.seen.kind != "texts" else ": ".join(filter(None, best[:2])),
            "auroc": best[2],
        }
        if len(self.sites) > 1:
            norms = norms_at_sites(self.directions_KD[[unit.number]], [*self.sites.values()])[0]
            row |= {f"norm.{site}": short(n) for site, n in zip(self.sites, norms, strict=True)}
        if tokens is not None:
            row["tokens"] = [token for token, *_ in tokens]
        return row

    def _labels(self, unit: Unit) -> list[list[Any]]:
        """Return the labels that the unit tells best from all others, with their AUROC."""
        found: list[list[Any]] = []
        ranks_E = rankdata(unit.values_E)
        for name, (numbers_N, values) in self.seen.labels.items():
            of_active_E = numbers_N[unit.samples_E] + 1
            aurocs_C = statistics.label_aurocs(ranks_E, of_active_E, self.seen.counts[name])[1:]
            if name.startswith(TOKEN):  # a class of tokens, which its name says
                values, aurocs_C = [""], aurocs_C[1:]
            best = np.argsort(-aurocs_C, kind="stable")[:LABELS]  # NaN comes last
            found += [[name, values[c], short(aurocs_C[c])] for c in best if aurocs_C[c] >= 0]
        return sorted(found, key=lambda label: -label[2])[:LABELS]

    def _examples(self, unit: Unit) -> dict[str, Any]:
        generator = np.random.default_rng(unit.number)
        groups_E = self.seen.groups_N[unit.samples_E]

        best = statistics.strongest(unit.values_E, groups_E, STRONGEST)
        parts = statistics.by_rank(unit.values_E, PARTS, OF_EACH_PART, generator)
        silent = statistics.silent(unit.samples_E, self.activity.samples, SILENT, generator)
        samples = [*(unit.samples_E[part] for part in (best, *parts)), silent]
        shown = iter(self.seen.examples(unit, np.concatenate(samples)))
        first, *others, last = ([*islice(shown, len(some))] for some in samples)
        return {"strongest": first, "parts": others, "silent": last}


class _Joint:
    """How often units are active on the same samples: the first ones, as many as memory takes."""

    def __init__(self, activity: Activity) -> None:
        share = min(1.0, TOGETHER / max(activity.entries, 1))
        self.size = max(1, int(share * activity.samples))
        parts = [
            unit.samples_E[: np.searchsorted(unit.samples_E, self.size)]
            for units in activity
            for unit in units
        ]
        self.counts_K = np.array([len(part) for part in parts])
        ends_K = np.concatenate([[0], self.counts_K.cumsum()])
        rows_E = np.concatenate(parts).astype(np.int32)
        shape, ones_E = (self.size, activity.units), np.ones(len(rows_E), np.float32)
        active = csc_array((ones_E, rows_E, ends_K), shape=shape)
        is_dense = active.nnz > DENSE * self.size * activity.units
        self.columns: Any = active.toarray() if is_dense else active
        self.rows: Any = self.columns if is_dense else active.tocsr()

    def with_others(self, block: int) -> list[list[tuple[int, float]]]:
        """Return the units that share most samples with each unit of a block.

        The share is taken of the samples on which either unit is active (Jaccard's index).
        """
        own = np.arange(block * BLOCK, min((block + 1) * BLOCK, len(self.counts_K)))
        both_BK = self.columns[:, own].T @ self.rows
        if issparse(both_BK):
            both_BK = both_BK.toarray()
        either_BK = self.counts_K[own][:, None] + self.counts_K - both_BK
        return _nearest(both_BK / np.maximum(either_BK, 1), own)


def _nearest(values_BK: np.ndarray, own: Any) -> list[list[tuple[int, float]]]:
    """Return the units of the largest values of each row, but for its own unit."""
    values_BK[np.arange(len(own)), own] = 0
    rows = statistics.largest_of_each_row(values_BK, NEAR)
    return [[(unit, short(value)) for unit, value in row] for row in rows]
