"""Estimates over seeds, with the 95 % intervals and paired tests of scipy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
ROUNDING = 1e-12  # relative difference up to which values count as equal


@dataclass(frozen=True)
class Estimate:
    """A measured quantity with its 95 % interval."""

    value: float
    low: float | None = None  # ``None`` for an exact value or a single run
    high: float | None = None
    n: int = 1  # runs or seeds behind the value
    p_value: float | None = None  # two-sided
    test: str | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval; the value twice if there is none."""
        low, high = (self.value if end is None else end for end in (self.low, self.high))
        return low, high

    def above(self, bound: float = 0) -> bool:
        """Return whether there is an interval, above a bound."""
        return self.low is not None and self.low > bound

    def below(self, bound: float = 0) -> bool:
        """Return whether there is an interval, below a bound."""
        return self.high is not None and self.high < bound

    def within(self, bound: float) -> bool:
        """Return whether there is an interval, nearer to 0 than a bound."""
        return self.above(-bound) and self.below(bound)

    def points(self, digits: int = 2) -> str:
        """Write a difference of shares and its interval, in points."""
        return self.text(digits, 100, "points")

    def text(self, digits: int = 2, scale: float = 1.0, unit: str = "") -> str:
        """Write the value and its interval: ``3.1 [2.5, 3.6] points``."""
        unit = unit and f" {unit}"
        value = f"{self.value * scale:,.{digits}f}"
        if self.low is None or self.high is None:
            return value + unit
        low, high = (f"{end * scale:,.{digits}f}" for end in (self.low, self.high))
        return f"{value} [{low}, {high}]{unit}"


def mean(values: Sequence[float] | pd.Series) -> Estimate:
    """Return the mean over seeds with Student's t interval."""
    sample = np.asarray(values, dtype=np.float64)
    centre = float(sample.mean())
    if len(sample) < 2:
        return Estimate(centre, n=len(sample))
    error = stats.sem(sample)
    if np.ptp(sample) <= ROUNDING * np.abs(sample).max():
        return Estimate(centre, centre, centre, len(sample))
    low, high = stats.t.interval(CONFIDENCE, len(sample) - 1, centre, error)
    return Estimate(centre, float(low), float(high), len(sample))


def mean_share(values: Sequence[float] | pd.Series) -> Estimate:
    """Return the mean of shares with Student's t interval, cut at 0 and 1."""
    estimate = mean(values)
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(0.0, estimate.low), high=min(1.0, estimate.high))


def difference(first: pd.Series, second: pd.Series) -> Estimate:
    """Return the mean of ``first - second``, paired by index, with a paired t test."""
    pairs = _pairs(first, second)
    estimate = mean(pairs[0] - pairs[1])
    return replace(estimate, p_value=_paired_p(pairs), test="paired t test")


def ratio(first: pd.Series, second: pd.Series) -> Estimate:
    """Return the geometric mean of ``first / second``, paired, with a t test on the logarithms.

    Raises:
        ValueError: if a value is not positive.
    """
    pairs = _pairs(first, second)
    if (pairs <= 0).any(axis=None):
        raise ValueError("a ratio needs positive values")
    logs = pairs.map(np.log)
    estimate = difference(logs[0], logs[1])
    low, high = (
        None if end is None else float(np.exp(end)) for end in (estimate.low, estimate.high)
    )
    value, test = float(np.exp(estimate.value)), "paired t test of logarithms"
    return replace(estimate, value=value, low=low, high=high, test=test)


def share(successes: int, n: int) -> Estimate:
    """Return a proportion with the exact (Clopper-Pearson) interval."""
    interval = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(successes / n, float(interval.low), float(interval.high), n)


def slope(x: Sequence[float] | pd.Series, y: Sequence[float] | pd.Series) -> float:
    """Return the least-squares slope of a straight line; NaN for fewer than two points."""
    if len(x) < 2:
        return float("nan")
    fit = stats.linregress(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    return float(fit.slope)


def _pairs(first: pd.Series, second: pd.Series) -> pd.DataFrame:
    return pd.concat([first, second], axis=1, keys=[0, 1], join="inner").astype(np.float64)


def _paired_p(pairs: pd.DataFrame) -> float | None:
    apart = (pairs[0] - pairs[1]).to_numpy()
    rounding = ROUNDING * np.abs(pairs.to_numpy()).max(initial=0)
    if len(pairs) < 2 or np.ptp(apart) <= rounding:
        return None  # no spread to test against
    return float(stats.ttest_rel(pairs[0], pairs[1]).pvalue)
