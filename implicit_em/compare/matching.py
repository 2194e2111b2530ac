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
    """Return the value at a density, linear in its logarithm between the settings beside it.

    Beyond the ends of the curve, by at most the factor ``beyond``, the value at the end stands;
    further away there is none (NaN). Settings of density 0, or without a value, are left out.
    """
    x, y = (np.asarray(numbers, dtype=np.float64) for numbers in (densities, values))
    there = (x > 0) & np.isfinite(y)
    x, y = x[there], y[there]
    if not len(x) or not x.min() / beyond <= target <= x.max() * beyond:
        return float("nan")
    x, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    y = np.bincount(places, y) / counts  # of equal densities the mean
    return float(np.interp(np.log(target), np.log(x), y))


def matched(
    finals: pd.DataFrame,
    targets: Sequence[float],
    beyond: float,
    along: str = "exact_density",
    value: str = "probe_accuracy",
) -> pd.DataFrame:
    """Return the value of each family and seed at each density; null where it is not reached.

    Args:
        finals: a row a run: ``family``, ``seed``, and the columns named below.
        targets: densities, or what else ``along`` holds.
        beyond: see ``at_density``.
        along: column that is matched.
        value: column that is compared.

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
        at: from ``matched``.
        reference: a family.

    Returns:
        A row a density and family: ``target``, ``family``, ``n`` (seeds with a value), ``mean`` and
        ``std`` over these; ``pairs`` of seeds that also the reference has, and ``ahead``, the mean
        of their differences from it, with ``low`` and ``high``, their 95 % interval, ``p_value`` of
        the paired t test and ``p_holm``, that after Holm over the families at this density;
        ``best``, whether no other mean is higher, of those over all seeds. Null for what does not
        exist.

    """
    rows: list[dict[str, Any]] = []
    seeds = at["seed"].nunique()
    for target, here in at.dropna(subset="value").groupby("target"):
        values = {
            str(family): own.set_index("seed")["value"]
            for family, own in here.groupby("family", sort=False)
        }
        tests = {
            family: difference(own, values[reference])
            for family, own in values.items()
            if family != reference
            and reference in values
            and len(own.index.intersection(values[reference].index))
        }
        adjusted = holm({family: test.p_value for family, test in tests.items()})
        whole = [own.mean() for own in values.values() if len(own) == seeds]
        for family, own in values.items():
            test = tests.get(family)
            rows.append(
                {
                    "target": target,
                    "family": family,
                    "n": len(own),
                    "mean": float(own.mean()),
                    "std": float(own.std()) if len(own) > 1 else None,
                    "pairs": test.n if test else 0,
                    "ahead": test and test.value,
                    "low": test and test.low,
                    "high": test and test.high,
                    "p_value": test and test.p_value,
                    "p_holm": adjusted.get(family),
                    "best": len(own) == seeds and own.mean() == max(whole),
                }
            )
    counted = ["target", "family", "n", "mean", "std", "pairs"]
    tested = ["ahead", "low", "high", "p_value", "p_holm"]
    frame = pd.DataFrame(rows, columns=[*counted, *tested, "best"])
    return frame.astype(dict.fromkeys(["std", *tested], float))
