"""Families at the same density: values between settings, and paired tests over seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from implicit_em.studies.statistics import difference, holm

SIGNIFICANT = 0.05
TESTED = ["pairs", "ahead", "low", "high", "p_value"]  # keys of ``lead``


def at_density(densities: ArrayLike, values: ArrayLike, target: float, beyond: float) -> float:
    """Return the value at a density, linear in its logarithm between the nearest settings.

    Past the ends of the curve, by at most the factor ``beyond``, the value at the end holds;
    further out it is NaN. Settings of density 0 or without a value are left out.
    """
    x, y = (np.asarray(numbers, dtype=np.float64) for numbers in (densities, values))
    valid = (x > 0) & np.isfinite(y)
    x, y = x[valid], y[valid]
    if not len(x) or not x.min() / beyond <= target <= x.max() * beyond:
        return float("nan")
    x, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    y = np.bincount(places, y) / counts  # the mean of equal densities
    return float(np.interp(np.log(target), np.log(x), y))


def matched(
    finals: pd.DataFrame,
    targets: Sequence[float],
    beyond: float,
    along: str = "exact_density",
    value: str = "probe_accuracy",
) -> pd.DataFrame:
    """Return the value of each family and seed at each target; null if it is out of reach.

    The column ``along`` is matched, the column ``value`` is compared. ``beyond`` is the factor of
    ``at_density``.
    """
    return pd.DataFrame(
        [
            {
                "family": family,
                "target": target,
                "seed": seed,
                "value": at_density(curve[along], curve[value], target, beyond),
            }
            for target in targets
            for (family, seed), curve in finals.groupby(["family", "seed"], sort=False)
        ],
        columns=["family", "target", "seed", "value"],
    )


def lead(values: pd.Series, expected: pd.Series) -> dict[str, Any]:
    """Return the mean of ``values - expected`` as ``ahead``, over the ``pairs`` of seeds in both.

    ``low`` and ``high`` are the ends of its 95 % interval, ``p_value`` is that of a paired t test.
    """
    test = difference(values, expected)
    return dict(zip(TESTED, (test.n, test.value, test.low, test.high, test.p_value), strict=True))


def against(at: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return each family's mean at each target of ``matched``, and its lead over the reference.

    Returns:
        One row per target and family: ``n`` seeds with a value, their ``mean`` and ``std``, and
        ``lead`` with ``p_holm``, corrected over the families at this target. ``best`` marks the
        highest mean of those over all seeds. Missing numbers are null.
    """
    table: list[dict[str, Any]] = []
    seeds = at["seed"].nunique()
    for target, here in at.dropna(subset="value").groupby("target"):
        values = {
            str(family): rows.set_index("seed")["value"]
            for family, rows in here.groupby("family", sort=False)
        }
        tests = {
            family: lead(value, values[reference])
            for family, value in values.items()
            if family != reference
            and reference in values
            and len(value.index.intersection(values[reference].index))
        }
        adjusted = holm({family: test["p_value"] for family, test in tests.items()})
        whole = [value.mean() for value in values.values() if len(value) == seeds]
        for family, value in values.items():
            row = {
                "target": target,
                "family": family,
                "n": len(value),
                "mean": float(value.mean()),
                "std": float(value.std()),
                "best": len(value) == seeds and value.mean() == max(whole),
                "p_holm": adjusted.get(family),
            }
            table.append({"pairs": 0, **row, **tests.get(family, {})})
    columns = ["target", "family", "n", "mean", "std", *TESTED, "p_holm", "best"]
    numbers = ["std", *TESTED[1:], "p_holm"]
    return pd.DataFrame(table, columns=columns).astype(dict.fromkeys(numbers, float))
