"""What has to be seen for each question to be answered with yes.

One function a claim: its docstring is the criterion, in words, its body the same in code. It judges
what the experiments measured, and measures nothing itself. The file was committed before the first
full run; ``AMENDMENTS`` lists what had to change afterwards.

All intervals are 95 % intervals over seeds; runs of the same seed are paired. Fractions such as
accuracies are in [0, 1].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from implicit_em.studies import statistics
from implicit_em.studies.claims import Claims, Finding
from implicit_em.theory import anomaly, lse
from implicit_em.theory.experiment import Evidence

AMENDMENTS: Mapping[str, str] = {}
"""Claims whose criterion changed after the first full run: what it was, and why."""
CLAIMS: Claims[Evidence] = Claims("fixed beforehand", AMENDMENTS)
claim = CLAIMS.claim
CLOSE = 0.003
"""Difference in probe accuracy that counts as none."""
HALF_A_POINT = 0.005
"""Probe accuracy that a temperature may cost."""


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


@claim("lse", "In real runs LSE counts the active units", "R² of at least 0.9, above that of L1")
def lse_counts(evidence: Evidence) -> Finding:
    """Yes if, with today's objective, ReLU, a weight of 1 and a temperature of 1, the share of
    active units explains at least 90 % of the variance of LSE + log K over the test samples
    (squared correlation) in every seed, and more than the sum of the energies does. Partly if it
    explains less than 90 %, but more than the sum of the energies in every seed.
    """
    runs = lse.default(evidence["lse"]["regimes"])
    today, decay = runs[runs["decay"] == 0], runs[runs["decay"] > 0].mean(numeric_only=True)
    enough, more = today["count_explains"] >= 0.9, today["count_explains"] > today["l1_explains"]
    shown = (f"{name}: {today[f'{key}_explains'].mean():.3f}" for key, name in lse.FORMS.items())
    return Finding(
        outcome((enough & more).all(), more.all()),
        statistics.mean_share(today["count_explains"]),
        f"R² of {', of '.join(shown)}",
        f"{100 * today['below'].mean():.1f} % of the active energies are below {lse.LOW:g}, "
        f"{100 * today['above'].mean():.1f} % above {lse.HIGH:g}. With weight decay, active units "
        f"explain {decay['count_explains']:.3f}, and the sum of the energies "
        f"{decay['l1_explains']:.3f}.",
    )


@claim(
    "lse",
    "Some temperature makes the responsibilities of ReLU meaningful",
    "perplexity at most K/2, half of the label said, probe kept",
)
def a_temperature_gives_meaning(evidence: Evidence) -> Finding:
    """Yes if with weight decay, ReLU and a weight of 1 there is a temperature at which, in every
    seed, the mean perplexity of the responsibilities is at most K / 2 and they say at least half of
    the labels' entropy, and at which the probe is on average at most 0.5 points below that of
    temperature 1 at the same density, interpolated between weights of LSE; a density beyond theirs
    counts as a loss. Partly if that holds for softplus, the absolute value or the square; their
    units are hardly ever silent, so their probe is compared with their own at temperature 1.
    """
    table = evidence["lse"]["responsibilities"]
    table = table[(table["decay"] > 0) & (table["weight"] == 1)]
    said: dict[str, float] = {}
    found: dict[str, list[str]] = {}
    for (activation, temperature), runs in table.groupby(["activation", "temperature"], sort=False):
        name = lse.ACTIVATIONS[str(activation)]
        said[name] = max(said.get(name, 0.0), float(runs["information"].mean()))
        meaning = (runs["perplexity_share"] <= 0.5) & (runs["information"] >= 0.5)
        lost = (runs["probe_at_one"] - runs["probe_accuracy"]).mean(skipna=False)
        if meaning.all() and lost <= HALF_A_POINT:
            found.setdefault(name, []).append(f"{temperature:g}")
    relu = table[table["activation"] == "ReLU"]
    where = "; ".join(f"{name} at {', '.join(at)}" for name, at in found.items())
    return Finding(
        outcome("ReLU" in found, found),
        statistics.Estimate(said["ReLU"]),
        "said of the label at most: "
        + ", ".join(f"{name} {100 * share:.1f} %" for name, share in said.items()),
        f"The perplexity of ReLU is {relu['perplexity'].min():.1f} at least. Meaningful: "
        f"{where or 'none'}.",
    )


@claim(
    "lse",
    "With distance-like activations a low energy means a match",
    "purer than ReLU's and than a large energy",
)
def low_energy_is_a_match(evidence: Evidence) -> Finding:
    """Yes if for softplus, the absolute value or the square, with weight decay, a weight of 1 and a
    temperature of 1, the purity of the unit of least energy is above that of ReLU, and above that
    of the same model's unit of largest energy: both paired differences have an interval above 0.
    Units with the same energy share a sample. Partly if only the first has.
    """
    table = evidence["lse"]["responsibilities"]
    ones = (table["weight"] == 1) & (table["temperature"] == 1) & (table["decay"] > 0)
    purities = {name: runs.set_index("seed") for name, runs in table[ones].groupby("activation")}
    relu = purities.pop("ReLU")["purity_least"]
    found, purer, shown = [], [], []
    for activation, runs in purities.items():
        name = lse.ACTIVATIONS[str(activation)]
        least, most = runs["purity_least"], runs["purity_most"]
        shown.append(f"{name} {100 * least.mean():.1f} % (largest: {100 * most.mean():.1f} %)")
        if _above(least, relu):
            purer.append(name)
            if _above(least, most):
                found.append(name)
    best = max((runs["purity_least"] for runs in purities.values()), key=lambda each: each.mean())
    return Finding(
        outcome(found, purer),
        statistics.mean_share(best),
        f"{', '.join(shown)}; ReLU {100 * relu.mean():.1f} %",
        f"Low energies match for: {', '.join(found) or 'none'}.",
    )


def _above(first: pd.Series, second: pd.Series) -> bool:
    """Return whether the interval of a paired difference lies above 0."""
    gap = statistics.difference(first, second)
    return gap.low is not None and gap.low > 0


@claim("anomaly", "The evidence is a better anomaly score than the references", "on 2 of 3 kinds")
def evidence_beats_references(evidence: Evidence) -> Finding:
    """Yes if on at least two of the three kinds of tasks (Fashion-MNIST, held-out digits, corrupted
    digits) the evidence of today's objective has a higher mean AUROC over the tasks than each of
    the four references: Gaussian mixture, k-means, isolation forest, error of the SAE. Each
    difference, paired over the seeds, needs an interval above 0. Partly if on one kind. A kind that
    was not measured does not count.
    """
    return _beats(evidence, "today")


@claim("anomaly", "So is the evidence with weight decay", "on 2 of 3 kinds")
def evidence_with_decay_beats_references(evidence: Evidence) -> Finding:
    """Yes if the same holds of the evidence with weight decay: above each of the four references on
    at least two of the three kinds of tasks. Partly if on one.
    """
    return _beats(evidence, "decay")


@claim("anomaly", "The evidence says more than the number of active units", "on 2 of 3 kinds")
def evidence_beats_the_count(evidence: Evidence) -> Finding:
    """Yes if on at least two of the three kinds of tasks the evidence of today's objective has a
    higher mean AUROC over the tasks than the number of active units of the same model; the
    difference, paired over the seeds, needs an interval above 0. Partly if on one.
    """
    return _beats(evidence, "today", ["today_active"])


def _beats(evidence: Evidence, method: str, others: Sequence[str] = anomaly.REFERENCES) -> Finding:
    """Judge whether a score is above all others, by the number of kinds of tasks."""
    won, shown, own = [], [], []
    for kind, table in anomaly.over_tasks(evidence["anomaly"]["aurocs"]).groupby("kind"):
        aurocs = {name: rows.set_index("seed")["auroc"] for name, rows in table.groupby("method")}
        best = max(others, key=lambda name: float(aurocs[name].mean()))
        name = anomaly.KINDS[str(kind)]
        own.append(aurocs[method])
        shown.append(
            f"{name} {aurocs[method].mean():.3f} against {aurocs[best].mean():.3f} "
            f"({anomaly.METHODS[best]})"
        )
        if all(_above(aurocs[method], aurocs[other]) for other in others):
            won.append(name)
    return Finding(
        outcome(len(won) >= 2, won),
        statistics.mean_share(pd.concat(own, axis=1).mean(axis=1)),
        f"{len(won)} of {len(own)}; {', '.join(shown)}",
        f"Better on: {', '.join(won) or 'none'}.",
    )
