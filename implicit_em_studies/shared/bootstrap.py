"""Families at the same targets: the tests of ``pairs``, with seeds and documents resampled."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from implicit_em_studies.shared import pairs
from implicit_em_studies.shared.statistics import CONFIDENCE, ROUNDING, holm

Measure = Callable[[np.ndarray], np.ndarray]
"""A function of sums over documents ``(..., Q)``, with values ``(...)``; higher is better."""

RESAMPLES = 10_000
AT_ONCE = 2**22
"""Number of documents to draw at a time."""
ESTIMATED = ["low", "high", "p_value", "mean_low", "mean_high"]


class UndefinedError(ValueError):
    """A measure is not finite in a resample."""


def against(
    at: pd.DataFrame, reference: str, measure: Measure, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Return the table of ``pairs.against``, with intervals and tests by a bootstrap.

    Seeds and documents are drawn with replacement, each on their own, because every seed is
    measured on the same documents (the pigeonhole bootstrap of Owen 2007, arXiv 0712.1111). The
    value of a family is the mean over the drawn seeds of the measure of the drawn documents' sums.
    All families share the draws, so they are paired. A family that lacks a seed is compared over
    the seeds that it shares with the reference.

    Intervals are 95 % percentile intervals (Efron & Tibshirani 1993, chapter 13). The two-sided
    p-value inverts them: ``2 (1 + min(#{d <= 0}, #{d >= 0})) / (1 + R)``, at most 1, for the leads
    d of R resamples. The data count as one more resample (Davison & Hinkley 1997, section 4.2), so
    it is never 0.

    A few seeds tell little of others. Where three seeds differ and documents do not, an interval
    reaches from the lowest to the highest seed. It then covers 75 %, and p-values are too small.

    Args:
        at: one row per ``target``, ``family`` and ``seed`` with ``sums``, an array ``(N, Q)`` with
            a row for each document, or null without one.
        reference: family that the others are compared with.
        measure: function of sums over documents; for a loss such as the FVU, 1 minus the loss.
        resamples: number of resamples R.
        seed: seed of the draws.

    Returns:
        The columns of ``pairs.against``, and ``mean_low`` and ``mean_high``, the interval of the
        family's own mean. ``std`` remains the deviation over seeds.

    Raises:
        UndefinedError: if the measure is not finite in a resample.
        ValueError: if the sums differ in shape, or there is a single document.
    """
    at = at.reset_index(drop=True)
    there = at.dropna(subset="sums")
    sums_CNQ = _stacked(there["sums"])
    value_C = measure(sums_CNQ.sum(1))
    value_RC = _resampled(sums_CNQ, measure, resamples, seed)
    undefined = there[~np.isfinite([value_C, *value_RC]).all(0)]
    if len(undefined):
        target, family, run = undefined[["target", "family", "seed"]].iloc[0]
        raise UndefinedError(
            f"target={target}, family={family}, seed={run}: the measure must be finite in every "
            "resample"
        )
    drawn = {
        key: pd.DataFrame(value_RC[:, runs], columns=there["seed"].iloc[runs])
        for key, runs in there.groupby(["target", "family"]).indices.items()
    }
    table = pairs.against(at.assign(value=pd.Series(value_C, there.index)), reference)
    rows = []
    for row in table.itertuples():
        own = drawn[row.target, row.family]
        low, high = _interval(_over_seeds(own, seed))
        rows.append({"mean_low": low, "mean_high": high})
        if row.pairs:
            rows[-1] |= _lead(own, drawn[row.target, reference], seed)
    table[ESTIMATED] = pd.DataFrame(rows, columns=ESTIMATED)
    for _, here in table.dropna(subset="p_value").groupby("target"):
        adjusted = holm({str(row): p for row, p in here["p_value"].items()})
        table.loc[here.index, "p_holm"] = list(adjusted.values())
    return table


def _stacked(sums: pd.Series) -> np.ndarray:
    """Return the sums of C runs, float64, shape ``(C, N, Q)``."""
    shapes = sorted({np.shape(sums_NQ) for sums_NQ in sums})
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] < 2:
        raise ValueError(f"sums of shapes {shapes}: all must be (N, Q), with N of 2 or more")
    return np.stack(list(sums)).astype(np.float64)


def _resampled(sums_CNQ: np.ndarray, measure: Measure, resamples: int, seed: int) -> np.ndarray:
    """Return the measure of each run in each resample of the documents, shape ``(R, C)``."""
    runs, documents, quantities = sums_CNQ.shape
    sums_NM = sums_CNQ.swapaxes(0, 1).reshape(documents, -1)
    random, share_N = np.random.default_rng(seed), np.full(documents, 1 / documents)
    size = max(1, AT_ONCE // documents)
    values = []
    for start in range(0, resamples, size):
        counts_BN = random.multinomial(documents, share_N, min(size, resamples - start))
        values.append(measure((counts_BN @ sums_NM).reshape(-1, runs, quantities)))
    return np.concatenate(values)


def _over_seeds(values_RS: pd.DataFrame, seed: int) -> np.ndarray:
    """Return the mean over the drawn seeds; as many seeds are always drawn alike."""
    resamples, seeds = values_RS.shape
    random = np.random.default_rng([seed, seeds])
    counts_RS = random.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    return (counts_RS * values_RS.to_numpy()).mean(1)


def _lead(own: pd.DataFrame, expected: pd.DataFrame, seed: int) -> dict[str, float]:
    """Return interval and p-value of the lead over the seeds in both."""
    apart = (own - expected).dropna(axis=1)
    rounding = ROUNDING * np.abs(own.to_numpy()).max()
    ahead_R = _over_seeds(apart.where(apart.abs() > rounding, 0.0), seed)
    low, high = _interval(ahead_R)
    beyond = min((ahead_R <= 0).sum(), (ahead_R >= 0).sum())
    p_value = min(1.0, 2 * (1 + int(beyond)) / (1 + len(ahead_R)))
    return {"low": low, "high": high, "p_value": p_value}


def _interval(values_R: np.ndarray) -> tuple[float, float]:
    """Return the ends of the percentile interval."""
    low, high = np.quantile(values_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
