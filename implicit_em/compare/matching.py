"""Families at the same density: values between settings, and paired tests over seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from implicit_em.studies.statistics import difference, holm

SIGNIFICANT = 0.05


def at_density(
    densities: Sequence[float], values: Sequence[float], target: float, beyond: float
) -> float:
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

    Args:
        finals: one row per run: ``family``, ``seed``, and the columns named below.
        targets: values of ``along`` to be matched.
        beyond: factor by which a curve reaches past its ends, as in ``at_density``.
        along: name of the column that is matched.
        value: name of the column that is compared.

    """
    return pd.DataFrame(
        [
            {
                "family": family,
                "target": target,
                "seed": seed,
                "value": at_density(curve[along].tolist(), curve[value].tolist(), target, beyond),
            }
            for target in targets
            for (family, seed), curve in finals.groupby(["family", "seed"], sort=False)
        ],
        columns=["family", "target", "seed", "value"],
    )


def against(at: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return each family's mean at each density, and how far it is ahead of the reference.

    Args:
        at: table from ``matched``.
        reference: name of the reference family.

    Returns:
        One row per density and family: ``target``, ``family``, ``n`` (seeds with a value), their
        ``mean`` and ``std``, and ``pairs``, the number of seeds that the reference has too.
        ``ahead`` is the mean difference of these from the reference, with its 95 % interval ``low``
        and ``high``, the ``p_value`` of the paired t test and ``p_holm``, the same after Holm over
        the families at this density. ``best`` marks the highest mean of those over all seeds. What
        does not exist is null.

    """
    table: list[dict[str, Any]] = []
    seeds = at["seed"].nunique()
    for target, here in at.dropna(subset="value").groupby("target"):
        values = {
            str(family): rows.set_index("seed")["value"]
            for family, rows in here.groupby("family", sort=False)
        }
        tests = {
            family: difference(value, values[reference])
            for family, value in values.items()
            if family != reference
            and reference in values
            and len(value.index.intersection(values[reference].index))
        }
        adjusted = holm({family: test.p_value for family, test in tests.items()})
        whole = [value.mean() for value in values.values() if len(value) == seeds]
        for family, value in values.items():
            test = tests.get(family)
            table.append(
                {
                    "target": target,
                    "family": family,
                    "n": len(value),
                    "mean": float(value.mean()),
                    "std": float(value.std()) if len(value) > 1 else None,
                    "pairs": test.n if test else 0,
                    "ahead": test and test.value,
                    "low": test and test.low,
                    "high": test and test.high,
                    "p_value": test and test.p_value,
                    "p_holm": adjusted.get(family),
                    "best": len(value) == seeds and value.mean() == max(whole),
                }
            )
    counted = ["target", "family", "n", "mean", "std", "pairs"]
    tested = ["ahead", "low", "high", "p_value", "p_holm"]
    frame = pd.DataFrame(table, columns=[*counted, *tested, "best"])
    return frame.astype(dict.fromkeys(["std", *tested], float))
