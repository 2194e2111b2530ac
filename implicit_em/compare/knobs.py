"""What each setting of the derived model moves: density, or quality at the same density."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from implicit_em.compare.matching import SIGNIFICANT, at_density
from implicit_em.compare.wording import percent
from implicit_em.studies.statistics import difference, holm

BASE = "base"
CURVE = (BASE, "sparsity")
"""Files of ``conf/experiment/knobs`` that give the curve which the others are compared with."""


def effects(table: pd.DataFrame, beyond: float) -> pd.DataFrame:
    """Return what each setting moves, against the curve over the weight of LSE.

    Args:
        table: a row a run: ``knob``, ``settings``, ``seed``, ``density`` and ``probe_accuracy``;
            the last two null where it diverged.
        beyond: see ``matching.at_density``.

    Returns:
        A row a setting: ``knob``, ``settings``, ``n`` runs that did not diverge, ``density`` and
        ``probe_accuracy``, their means, with ``_std``; ``pairs`` of seeds whose curve has that
        density, and ``ahead``, the mean over these of the accuracy above that of the curve at the
        same density, with ``low`` and ``high``, the 95 % interval, ``p_value`` of
        the paired t test and ``p_holm``, that after Holm over settings.
        Null for what does not exist: the curve's own settings are not tested.

    """
    curves: dict[Any, pd.DataFrame] = dict(iter(table[table["knob"].isin(CURVE)].groupby("seed")))
    rows: list[dict[str, Any]] = []
    for (knob, settings), runs in table.groupby(["knob", "settings"], sort=False):
        own = runs.dropna(subset=["density", "probe_accuracy"]).set_index("seed")
        row = {"knob": knob, "settings": settings, "n": len(own), "pairs": 0}
        for column in ("density", "probe_accuracy"):
            row |= {column: own[column].mean(), f"{column}_std": own[column].std()}
        expected = pd.Series(
            {
                seed: at_density(
                    curves[seed]["density"].tolist(),
                    curves[seed]["probe_accuracy"].tolist(),
                    density,
                    beyond,
                )
                for seed, density in own["density"].items()
            },
            dtype=float,
        ).dropna()
        if knob not in CURVE and len(expected):
            test = difference(own["probe_accuracy"], expected)
            row |= {"pairs": test.n, "ahead": test.value, "low": test.low, "high": test.high}
            row |= {"p_value": test.p_value}
        rows.append(row)
    frame = pd.DataFrame(
        rows,
        columns=[
            *("knob", "settings", "n", "density", "density_std"),
            *("probe_accuracy", "probe_accuracy_std"),
            *("pairs", "ahead", "low", "high", "p_value"),
        ],
    )
    tests = {f"{place}": None if pd.isna(p) else p for place, p in frame["p_value"].items()}
    frame["p_holm"] = pd.Series(list(holm(tests).values()), dtype=float)
    numbers = frame.columns.drop(["knob", "settings", "n", "pairs"])
    return frame.astype(dict.fromkeys(numbers, float))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table, by the names of its columns."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def knob_findings(moved: pd.DataFrame, reach: float) -> list[str]:
    """Return what the effects say, a sentence each.

    Args:
        moved: from ``effects``.
        reach: the factor of density from which a setting is said to move it.

    """
    return [*_density(moved, reach), *_quality(moved), *_nothing(moved)]


def _knobs(moved: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for knob, own in moved[moved["knob"] != BASE].groupby("knob", sort=False):
        yield str(knob).replace("_", " "), own


def _density(moved: pd.DataFrame, reach: float) -> Iterator[str]:
    base = moved[moved["knob"] == BASE]
    moving, still = [], []
    for knob, own in _knobs(moved):
        if own["density"].isna().all():
            continue
        densities = pd.concat([base, own])["density"].dropna()
        low, high = densities.min(), densities.max()
        if high >= reach * low:
            moving.append(f"{knob} ({percent(low, 1)} to {percent(high, 1)})")
        else:
            still.append(knob)
    default = base["density"].mean()
    start = "Density" if pd.isna(default) else f"From {percent(default, 1)} by default, density"
    yield f"{start} is moved by {', '.join(moving) or 'nothing'}."
    if still:
        yield f"It stays within a factor of {reach} with {', '.join(still)}."


def _quality(moved: pd.DataFrame) -> Iterator[str]:
    tested = moved[moved["p_holm"].notna()]
    if tested.empty:
        return
    clear = tested[tested["p_holm"] < SIGNIFICANT]
    yield (
        f"At the density that it has, {len(clear[clear['ahead'] > 0])} of {len(tested)} settings "
        "are significantly better than the weight of LSE gets there, "
        f"{len(clear[clear['ahead'] < 0])} significantly worse."
    )
    for better, word in ((True, "Better"), (False, "Worse")):
        own = clear[(clear["ahead"] > 0) == better].sort_values("ahead", ascending=not better)
        if len(own):
            named = [
                f"{row['settings']} ({100 * row['ahead']:+.2f} "
                f"[{100 * row['low']:+.2f}, {100 * row['high']:+.2f}] points)"
                for row in records(own)
            ]
            yield f"{word}: {', '.join(named)}."


def _nothing(moved: pd.DataFrame) -> Iterator[str]:
    full = moved[moved["density"] == 1]
    if len(full):
        yield f"No unit is ever off with {', '.join(full['settings'])}."
    lost = moved[moved["n"] == 0]
    if len(lost):
        yield f"In all seeds diverged: {', '.join(lost['settings'])}."
