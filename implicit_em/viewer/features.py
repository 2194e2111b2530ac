"""Everything that pages show of each unit, as plain data."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csc_array, csr_array

from implicit_em.metrics.dictionaries import cosines
from implicit_em.viewer.activity import BLOCK, Activity, Unit
from implicit_em.viewer.effects import Effects
from implicit_em.viewer.seen import Seen, short
from implicit_em.viewer.statistics import (
    by_rank,
    label_aurocs,
    largest_of_each_row,
    silent,
    strongest,
)

STRONGEST, PARTS, OF_EACH_PART, SILENT = 16, 5, 3, 3
"""Numbers of examples: the strongest, of each part of the others by rank, and silent ones."""
BINS = 40
"""Number of bins of a unit's histogram, from 0 to its largest activation."""
LABELS = 5
"""Number of labels that are shown of a unit."""
NEAR = 6
"""Number of other units that are shown of a unit."""
TOGETHER = 2**24
"""Largest number of entries on which joint activity is counted."""


@dataclass
class Features:
    """The units of a run.

    Args:
        activity: what activates them.
        seen: the samples.
        encoder_KD: rows of the encoder.
        directions_KD: directions that the units stand for, of a decoder.
        effects: effects of directions on a language model's logits; ``None`` if there are none.
        columns: what the table of all units shows, by name; ``blocks`` fills it.
    """

    activity: Activity
    seen: Seen
    encoder_KD: np.ndarray
    directions_KD: np.ndarray
    effects: Effects | None = None
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def blocks(self) -> Iterator[list[dict[str, Any]]]:
        """Yield all that is shown of the units of each block."""
        self.columns.update({name: [] for name in ("density", "max", "mean", "label", "auroc")})
        if self.seen.kind == "texts":
            self.columns["tokens"] = []
        joint = _Joint(self.activity)
        for number, units in enumerate(self.activity):
            near = self._near(units)
            together = joint.with_others(number)
            effects = self._effects(units)
            yield [
                {
                    "near": near[place],
                    "together": together[place],
                    "effects": effects[place],
                    **self._of(unit),
                }
                for place, unit in enumerate(units)
            ]

    def _effects(self, units: list[Unit]) -> list[Any]:
        own = [unit.number for unit in units]
        if self.effects is None:
            return [None] * len(own)
        return self.effects.of_block(self.encoder_KD[own], self.directions_KD[own])

    def _near(self, units: list[Unit]) -> list[list[tuple[int, float]]]:
        own = [unit.number for unit in units]
        cosines_BK = cosines(self.directions_KD[own], self.directions_KD)
        cosines_BK[np.arange(len(own)), own] = 0
        return _shortened(largest_of_each_row(cosines_BK, NEAR))

    def _of(self, unit: Unit) -> dict[str, Any]:
        seen, size = self.seen, self.activity.samples
        values_E = unit.values_E.astype(np.float64)
        largest = float(values_E.max(initial=0))
        counts = np.histogram(values_E, BINS, (0, largest or 1))[0]
        labels = self._labels(unit)
        more = seen.of_unit(unit, self.encoder_KD[unit.number])
        best = labels[0] if labels else ["", "", None]
        row = {
            "density": short(len(values_E) / size),
            "max": short(largest),
            "mean": short(values_E.mean()) if len(values_E) else 0,
            "label": best[1] if seen.kind != "texts" else ": ".join(filter(None, best[:2])),
            "auroc": best[2],
            "tokens": [token for token, *_ in more.get("tokens", [])],
        }
        for name, column in self.columns.items():
            column.append(row[name])
        return {
            "histogram": counts.tolist(),
            "labels": labels,
            "examples": self._examples(unit),
            **more,
        }

    def _labels(self, unit: Unit) -> list[list[Any]]:
        """Return the labels that the unit tells best from all others, with their AUROC."""
        found: list[list[Any]] = []
        for name, (numbers_N, values) in self.seen.labels.items():
            # The first place is for samples without a value.
            counts_C = np.bincount(numbers_N + 1, minlength=len(values) + 1)
            of_active_E = numbers_N[unit.samples_E] + 1
            aurocs_C = label_aurocs(unit.values_E, of_active_E, counts_C)[1:]
            of_label = zip(values, aurocs_C, strict=True)
            if values == ["no", "yes"]:  # a class of tokens, which its name says
                of_label = zip([""], aurocs_C[1:], strict=True)
            found += [[name, value, short(a)] for value, a in of_label if not np.isnan(a)]
        return sorted(found, key=lambda label: -label[2])[:LABELS]

    def _examples(self, unit: Unit) -> dict[str, Any]:
        generator = np.random.default_rng(unit.number)
        groups_E = self.seen.groups_N[unit.samples_E]

        def shown(samples: np.ndarray) -> list[Any]:
            return [self.seen.example(unit, int(sample)) for sample in samples]

        parts = by_rank(unit.values_E, PARTS, OF_EACH_PART, generator)
        return {
            "strongest": shown(unit.samples_E[strongest(unit.values_E, groups_E, STRONGEST)]),
            "parts": [shown(unit.samples_E[part]) for part in parts],
            "silent": shown(silent(unit.samples_E, self.activity.samples, SILENT, generator)),
        }


class _Joint:
    """How often units are active on the same samples: the first ones, as many as memory takes."""

    def __init__(self, activity: Activity) -> None:
        total = sum(len(unit.samples_E) for units in activity for unit in units)
        share = min(1.0, TOGETHER / max(total, 1))
        self.size = max(1, int(share * activity.samples))
        parts = [
            unit.samples_E[: np.searchsorted(unit.samples_E, self.size)]
            for units in activity
            for unit in units
        ]
        self.counts_K = np.array([len(part) for part in parts])
        ends_K = np.concatenate([[0], self.counts_K.cumsum()])
        rows_E = np.concatenate(parts).astype(np.int32)
        shape = (self.size, activity.units)
        self.columns = csc_array((np.ones(len(rows_E), np.float32), rows_E, ends_K), shape=shape)
        self.rows: csr_array = self.columns.tocsr()

    def with_others(self, block: int) -> list[list[tuple[int, float]]]:
        """Return the units that share most samples with each unit of a block.

        The share is that of the samples on which either is active (Jaccard's index).
        """
        own = np.arange(block * BLOCK, min((block + 1) * BLOCK, len(self.counts_K)))
        both_BK = (self.columns[:, own].T @ self.rows).toarray()
        either_BK = self.counts_K[own][:, None] + self.counts_K - both_BK
        shares_BK = both_BK / np.maximum(either_BK, 1)
        shares_BK[np.arange(len(own)), own] = 0
        return _shortened(largest_of_each_row(shares_BK, NEAR))


def _shortened(rows: list[list[tuple[int, float]]]) -> list[list[tuple[int, float]]]:
    return [[(unit, short(value)) for unit, value in row] for row in rows]
