"""What has to be seen for each question to be answered with yes.

One function a claim: its docstring is the criterion, in words, its body the same in code. It judges
what the experiments measured, and measures nothing itself. The file was committed before the first
full run; ``AMENDMENTS`` lists what had to change afterwards.

All intervals are 95 % intervals over seeds; runs of the same seed are paired. Fractions such as
accuracies are in [0, 1].
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from implicit_em.studies import statistics
from implicit_em.studies.claims import Claims, Finding
from implicit_em.theory.experiment import Evidence

AMENDMENTS: Mapping[str, str] = {}
"""Claims whose criterion changed after the first full run: what it was, and why."""
CLAIMS: Claims[Evidence] = Claims("fixed beforehand", AMENDMENTS)
claim = CLAIMS.claim
CLOSE = 0.003
"""Difference in probe accuracy that counts as none."""


def outcome(yes: Any, partly: Any = False) -> str:
    """Return the verdict of two conditions."""
    return "yes" if yes else "partly" if partly else "no"


@claim("volume", "With weight decay, training ends", "settled, none dead, in all runs")
def decay_settles(evidence: Evidence) -> Finding:
    """Yes if with weight decay every run at every one of the three rates settles, and no unit is
    dead (variance below 0.01) in any of them. A run settles at the epoch from which on, up to its
    end and for at least five epochs, neither its rows nor its correlations get farther in ten
    epochs than a random walk would, sqrt(10) times as far as in one. Partly if every run at two of
    the rates settles, with no dead unit.
    """
    runs = _candidate(evidence, "decay")
    runs = runs[runs["weight"] == 1]
    alive = bool((runs["dead_units"] == 0).all())
    settled = runs["settled"].notna().groupby(runs["lr"]).all()
    count = int(runs["settled"].notna().sum())
    today = _candidate(evidence, "today")
    today = today[today["weight"] == 1]
    return Finding(
        outcome(alive and settled.all(), alive and settled.sum() >= 2),
        statistics.share(count, len(runs)),
        f"{count} of {len(runs)} runs settle; {runs['dead_units'].max():.0f} dead at most",
        f"Of today's objective, {int(today['settled'].notna().sum())} of {len(today)} runs settle "
        "by the same rule.",
    )


@claim("volume", "Weight decay costs no probe accuracy", "at most 0.3 points below today's")
def decay_keeps_the_probe(evidence: Evidence) -> Finding:
    """Yes if the paired difference between the probe with weight decay and today's, both at the
    density of today's objective with a weight of 1 for LSE, has an interval above -0.3 points.
    Partly if the mean difference is above -0.3 points.
    """
    matched = evidence["volume"]["matched"]
    probes = {
        name: group.set_index("seed")["probe"] for name, group in matched.groupby("candidate")
    }
    gap = statistics.difference(probes["decay"], probes["today"])
    low = gap.value if gap.low is None else gap.low
    better = gap.low is not None and gap.low > 0
    return Finding(
        outcome(low > -CLOSE, gap.value > -CLOSE),
        gap,
        gap.text(2, 100, "points"),
        "At the same density the probe is "
        + ("better with weight decay." if better else "not better with weight decay."),
    )


@claim("volume", "Another bounded objective does as well", "settled, none dead, probe kept")
def others_do_as_well(evidence: Evidence) -> Finding:
    """Yes if one of the other candidates settles in every run at the middle rate and a weight of 1
    with no dead unit, and its mean probe at the density of today's objective is at most 0.3 points
    below today's. Partly if one settles with no dead unit, whatever its probe.
    """
    matched = evidence["volume"]["matched"].groupby("candidate")["probe"].mean()
    found, settling = [], []
    for name in ("hinge", "penalty", "unit"):
        runs = _candidate(evidence, name)
        runs = runs[runs["weight"] == 1]
        if runs["settled"].notna().all() and (runs["dead_units"] == 0).all():
            settling.append(name)
            if matched[name] - matched["today"] > -CLOSE:
                found.append(name)
    gaps = 100 * (matched - matched["today"])
    shown = ", ".join(
        f"{name} {gaps[name]:+.2f} points" if pd.notna(gaps[name]) else f"{name}: another density"
        for name in ("hinge", "penalty", "unit")
    )
    return Finding(
        outcome(found, settling),
        statistics.Estimate(len(found)),
        f"{len(found)} of 3; {shown}",
        f"Settled with no dead unit: {', '.join(settling) or 'none'}.",
    )


def _candidate(evidence: Evidence, name: str) -> pd.DataFrame:
    runs = evidence["volume"]["runs"]
    return runs[runs["candidate"] == name]
