"""Families at any L0: curves through their finals, by a bootstrap over sources and seeds."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from implicit_em_studies.shared.statistics import CONFIDENCE, ROUNDING, Estimate

log = logging.getLogger(__name__)
Measure = Callable[[np.ndarray], np.ndarray]
"""A function of sums ``(..., Q)``, with values ``(...)``; higher is better."""
Reading = Callable[[np.ndarray, np.ndarray, Sequence[float]], np.ndarray]
"""A function like ``read_at``."""
BEYOND = 1.2
"""Factor of L0 by which a curve reaches past its ends."""
SOURCES_AT_ONCE = 2**22
"""Number of sources to draw at a time."""


def read_at(l0_C: np.ndarray, values_RC: np.ndarray, places_P: Sequence[float]) -> np.ndarray:
    """Return curves at some L0, shape ``(R, P)``: monotone and cubic over the logarithm of L0.

    They are those of Fritsch & Butland (1984). Up to the factor ``BEYOND`` past an end, a curve
    goes on in a straight line with the slope of its end; further out it is NaN, and everywhere if
    it has fewer than two points.

    Args:
        l0_C: active units of the points of a curve.
        values_RC: values of the points; each row makes a curve.
        places_P: numbers of active units to read at.
    """
    at_P = np.log(places_P)
    x, first = np.unique(np.log(l0_C), return_index=True)
    if len(x) < 2:
        return np.full((len(values_RC), len(at_P)), np.nan)
    curve = PchipInterpolator(x, values_RC[:, first], axis=1)
    inside_P = at_P.clip(x[0], x[-1])
    found_RP = curve(inside_P) + curve(inside_P, nu=1) * (at_P - inside_P)
    found_RP[:, np.abs(at_P - inside_P) > np.log(BEYOND) + ROUNDING] = np.nan
    return found_RP


@dataclass(frozen=True)
class Curves:
    """A measure of families at some L0, in the data and in each resample of them.

    Args:
        at: values by family and L0: row 0 is of the data, the other R rows are of resamples, the
            columns are seeds. A seed whose curve does not reach the L0 is left out.
        seed: seed of the draws.
    """

    at: dict[tuple[str, int], pd.DataFrame]
    seed: int = 0

    @classmethod
    def of(
        cls,
        points: pd.DataFrame,
        measure: Measure,
        places: Sequence[int],
        resamples: int,
        seed: int = 0,
        read: Reading = read_at,
    ) -> "Curves":
        """Read the curve of each family and seed at each place, in each resample.

        Sources and seeds are drawn with replacement, each on their own, because every seed is
        measured on the same sources (the pigeonhole bootstrap of Owen 2007, arXiv 0712.1111). All
        families share the draws, so they are paired. The L0 of a point is that of all tokens. A
        run whose measure is not finite in some resample is left out, which a line says.

        Args:
            points: one row per run with ``family``, ``seed``, ``l0`` and ``sums``, an array
                ``(N, Q)`` with a row for each source, or null without one.
            measure: function of sums over sources.
            places: numbers of active units to read at.
            resamples: number of resamples R.
            seed: seed of the draws.
            read: function that reads a curve at the places.
        """
        there = points[points["sums"].notna() & (points["l0"] > 0)].reset_index(drop=True)
        if there.empty:
            return cls({}, seed)
        values_RC = _resampled(np.stack([*there["sums"]]), measure, resamples, seed)
        finite_C = np.isfinite(values_RC).all(0)
        for row in there[~finite_C].itertuples():
            about = row.family, row.seed, row.l0
            log.warning("left out, not finite in some resample: %s, seed %s, L0 %.1f", *about)
        found: dict[tuple[str, int], dict[int, np.ndarray]] = {}
        for (family, run), rows in there[finite_C].groupby(["family", "seed"], sort=False):
            read_RP = read(rows["l0"].to_numpy(), values_RC[:, rows.index], places)
            for place, values_R in zip(places, read_RP.T, strict=True):
                if np.isfinite(values_R).all():
                    found.setdefault((str(family), place), {})[run] = values_R
        return cls({key: pd.DataFrame(own) for key, own in found.items()}, seed)

    def mean(self, family: str, place: int) -> np.ndarray | None:
        """Return the mean over the drawn seeds, ``(1 + R,)``; ``None`` if no seed is there."""
        own = self.at.get((family, place))
        return None if own is None else self._over_seeds(own)

    def lead(self, family: str, over: str, place: int) -> np.ndarray | None:
        """Return the lead of a family over another, of the seeds that both have, ``(1 + R,)``."""
        own, other = self.at.get((family, place)), self.at.get((over, place))
        if own is None or other is None:
            return None
        apart = (own - other).dropna(axis=1)
        rounding = ROUNDING * np.abs(own.to_numpy()).max()
        return self._over_seeds(apart.where(apart.abs() > rounding, 0.0)) if apart.size else None

    def _over_seeds(self, values_RS: pd.DataFrame) -> np.ndarray:
        """Return the mean over the drawn seeds; as many seeds are always drawn alike."""
        rows, seeds = values_RS.shape
        random = np.random.default_rng([self.seed, seeds])
        counts_RS = random.multinomial(seeds, np.full(seeds, 1 / seeds), rows - 1)
        counts_RS = np.vstack([np.ones(seeds), counts_RS])
        return (counts_RS * values_RS.to_numpy()).mean(1)

    def seeds(self, family: str, place: int) -> int:
        """Return the number of a family's seeds at an L0."""
        return self.at.get((family, place), pd.DataFrame()).shape[1]


def estimate(values_R: np.ndarray) -> Estimate:
    """Return the value of the data, row 0, with the 95 % percentile interval of the resamples."""
    low, high = np.quantile(values_R[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(values_R[0]), float(low), float(high))


def _resampled(sums_CNQ: np.ndarray, measure: Measure, resamples: int, seed: int) -> np.ndarray:
    """Return the measure of each run, shape ``(1 + R, C)``: of the data, and of each resample."""
    runs, sources, quantities = sums_CNQ.shape
    sums_NM = sums_CNQ.swapaxes(0, 1).reshape(sources, -1)
    random, share_N = np.random.default_rng(seed), np.full(sources, 1 / sources)
    size = max(1, SOURCES_AT_ONCE // sources)
    values = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(-1, resamples, size):
            count = min(size, resamples - start)
            counts_BN = random.multinomial(sources, share_N, count)
            if start < 0:
                counts_BN[0] = 1
            values.append(measure((counts_BN @ sums_NM).reshape(-1, runs, quantities)))
    return np.concatenate(values)
