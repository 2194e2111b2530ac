"""What has to be seen for each question to be answered with yes.

One function a claim: its docstring is the criterion, in words, its body the same in code. It judges
what the experiments measured, and measures nothing itself. The file was committed before the first
full run; ``AMENDMENTS`` lists what had to change afterwards.

All intervals are 95 % intervals over seeds; runs of the same seed are paired. Fractions such as
accuracies are in [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from implicit_em_studies.shared import statistics
from implicit_em_studies.shared.claims import Claims, Finding
from implicit_em_studies.shared.experiment import Evidence, Tables
from implicit_em_studies.shared.statistics import Estimate
from implicit_em_studies.shared.tables import rows_of
from implicit_em_studies.theory import (
    anomaly,
    dead_units,
    lse,
    on_or_off,
    reconstruction,
    volume,
)
from implicit_em_studies.theory.depth import EQUAL, WAYS
from implicit_em_studies.theory.explicit_em import DESCENT, EXPLICIT, best, end_of

AMENDMENTS: Mapping[str, str] = {
    "decay_settles": "For 'partly', the code asked that no unit be dead at all three rates. The "
    "words ask it of two, and so does the code now. The verdict was no.",
    "unit_rows_settle": "Added after the first full run, in which unit rows had settled at the "
    "middle rate. It was committed before they were trained at the other two.",
    "units_settle_longer": "Added after the first full run, in which 6 of 9 runs had settled. It "
    "was committed before any was trained for 200 epochs.",
    "centred_units_settle_longer": "Added after the first full run, in which 8 of 9 runs had "
    "settled. It was committed before any was trained for 200 epochs.",
}
"""Claims whose criterion changed after the first full run, or was added: what it was, and why."""
CLAIMS: Claims[Evidence] = Claims("fixed beforehand", ("yes", "partly", "no"), AMENDMENTS)
claim, outcome = CLAIMS.claim, CLAIMS.outcome
CLOSE = 0.003
"""Difference in probe accuracy that counts as none."""
AS_PURE = 0.01
"""Difference in purity that counts as none."""
HALF_A_POINT = 0.005
"""Probe accuracy that a temperature may cost."""
AS_MUCH = 0.005
"""Difference in unexplained variance that counts as none."""
BOTH = ("centre", "none")
"""Samples less their mean, and as they are, by ``data.normalize``."""
EXACT = 1e-10
"""Relative error up to which an identity holds in float64."""
STRONG = 0.7
"""Rank correlation that counts as strong."""


@claim("volume", "With weight decay, training ends", "settled, none dead, in all runs")
def decay_settles(evidence: Evidence) -> Finding:
    """Yes if with weight decay every run at every one of the three rates settles, and no unit is
    dead (variance below 0.01) in any of them. A run settles at the epoch from which on, up to its
    end and for at least five epochs, neither its rows nor its correlations get farther in ten
    epochs than a random walk would, sqrt(10) times as far as in one. Partly if every run at two of
    the rates settles, with no dead unit.
    """
    return _settles(evidence, "decay")


@claim("volume", "With unit rows, training ends", "settled, none dead, in all runs")
def unit_rows_settle(evidence: Evidence) -> Finding:
    """Yes if the same holds of unit rows times a gain of 4.5: at every one of the three rates every
    run settles, and no unit is dead in any of them. Partly if that holds at two of the rates.
    """
    return _settles(evidence, "unit")


def _settles(evidence: Evidence, name: str) -> Finding:
    today = _candidate(evidence, "today")
    found = _ends(_candidate(evidence, name))
    beside = (
        f" Of the paper's objective, {today['settled'].notna().sum()} of {len(today)} runs settle "
        "by the same rule."
    )
    return replace(found, why=found.why + beside)


def _ends(runs: pd.DataFrame) -> Finding:
    """Judge runs at three rates by whether they settle, and whether units are dead."""
    settled, dead = runs["settled"].notna(), runs["dead_units"] > 0
    good = (settled & ~dead).groupby(runs["lr"]).all()
    where = ", ".join(f"{rate:g}" for rate in sorted(runs["lr"][dead].unique()))
    return Finding(
        outcome(good.all(), good.sum() >= 2),
        statistics.share(int(settled.sum()), len(runs)),
        f"{settled.sum()} of {len(runs)} runs settle; {runs['dead_units'].max():.0f} dead at most",
        f"Units are dead at these rates: {where or 'none'}.",
    )


@claim("volume", "Weight decay costs no probe accuracy", "at most 0.3 points below the paper's")
def decay_keeps_the_probe(evidence: Evidence) -> Finding:
    """Yes if the paired difference between the probe with weight decay and the paper's, both at the
    density of the paper's objective with a weight of 1 for LSE, has an interval above -0.3 points.
    Partly if the mean difference is above -0.3 points.
    """
    matched = evidence["volume"]["matched"]
    probes = matched.pivot(index="seed", columns="candidate", values="probe")
    gap = statistics.difference(probes["decay"], probes["today"])
    return Finding(
        outcome(gap.ends[0] > -CLOSE, gap.value > -CLOSE),
        gap,
        gap.points(),
        "At the same density the probe is "
        + ("better with weight decay." if gap.above() else "not better with weight decay."),
    )


@claim("volume", "Another bounded objective does as well", "settled, none dead, probe kept")
def others_do_as_well(evidence: Evidence) -> Finding:
    """Yes if one of the other candidates settles in every run at the middle rate and a weight of 1
    with no dead unit, and its mean probe at the density of the paper's objective is at most 0.3
    points below the paper's. Partly if one settles with no dead unit, whatever its probe.
    """
    probes = evidence["volume"]["matched"].groupby("candidate")["probe"].mean()
    gaps = (probes - probes["today"])[["hinge", "penalty", "unit"]]
    runs = {name: rows_of(_candidate(evidence, name), lr=volume.MIDDLE) for name in gaps.index}
    good = {n: own["settled"].notna() & (own["dead_units"] == 0) for n, own in runs.items()}
    settling = [name for name in good if good[name].all()]
    found = [name for name in settling if gaps[name] > -CLOSE]
    shown = ", ".join(
        f"{name}: another density" if pd.isna(gap) else f"{name} {100 * gap:+.2f} points"
        for name, gap in gaps.items()
    )
    return Finding(
        outcome(found, settling),
        Estimate(len(found)),
        f"{len(found)} of 3; {shown}",
        f"Settled with no dead unit: {', '.join(settling) or 'none'}.",
    )


@claim("explicit_em", "A preconditioned gradient step is an M-step", "equal, and no fall")
def a_step_is_an_m_step(evidence: Evidence) -> Finding:
    """Yes if, for every run of exact EM, on 10,000 training samples in float64, a gradient step on
    LSE with the preconditioner 1 / <r_j> equals the M-step up to 1e-10 of its largest entry, at the
    start and at the end; and the likelihood of all training samples never falls from one pass to
    the next by more than rounding: 1e-6 of it in the runs, in float32, and 1e-12 of it in float64.
    Partly if only the steps are equal.
    """
    found = evidence["explicit_em"]
    steps, passes = found["steps"], found["passes"]
    error = steps["error"].max()
    fall, in_float64 = passes["fall"].max(), passes["fall_reference"].max()
    equal, rises = error <= 1e-10, fall <= 1e-6 and in_float64 <= 1e-12
    return Finding(
        outcome(equal and rises, equal),
        Estimate(float(error), n=len(passes)),
        f"difference at most {error:.1e}; falls of at most {fall:.1e}, in float64 {in_float64:.1e}",
        f"The M-steps choose rates between {steps['lowest_rate'].min():.0f} and "
        f"{steps['largest_rate'].max():,.0f}, one for each component.",
    )


@claim("explicit_em", "After the same passes, explicit EM is ahead", "higher likelihood")
def ahead_after_equal_passes(evidence: Evidence) -> Finding:
    """Yes if, after all passes, the likelihood of the best form of explicit EM is above that of
    gradient descent at its best: the paired difference has an interval above 0. Partly if it has
    one after a tenth of the passes. The forms are exact, incremental, and stochastic at each step
    size; gradient descent is Adam or SGD at each rate; the best has the largest mean over the
    seeds.
    """
    return _ahead(evidence, "pass", "passes")


@claim("explicit_em", "After the same seconds, explicit EM is ahead", "higher likelihood")
def ahead_after_equal_seconds(evidence: Evidence) -> Finding:
    """Yes if, after the seconds that the fastest setting takes for all its passes, the likelihood
    of the best form of explicit EM is above that of gradient descent at its best, as for equal
    passes. Partly if it is above after a tenth of these seconds. A setting's seconds are those of a
    pass alone, on one thread, times its passes.
    """
    return _ahead(evidence, "seconds", "seconds")


def _ahead(evidence: Evidence, column: str, unit: str) -> Finding:
    curves = evidence["explicit_em"]["curves"]
    end = end_of(curves, column)
    at_end, early = (
        [best(curves, own, column, budget) for own in (EXPLICIT, DESCENT)]
        for budget in (end, end / 10)
    )
    gap, first = (statistics.difference(*(b.likelihoods for b in both)) for both in (at_end, early))
    return Finding(
        outcome(gap.above(), first.above()),
        gap,
        f"{gap.text(2, 1, 'nats')} after {end:.3g} {unit}, "
        f"{first.text(2, 1, 'nats')} after {end / 10:.2g}",
        f"At the end {at_end[0]} against {at_end[1]}, at a tenth {early[0]} against {early[1]}.",
    )


@claim("explicit_em", "Its components are as good", "purity within 1 point")
def components_are_as_good(evidence: Evidence) -> Finding:
    """Yes if the purities of explicit EM and of gradient descent, each at the setting that is best
    after all passes, differ by less than 1 point: their paired difference has an interval within 1
    point of 0. Partly if the mean difference is within 1 point. The purity is the share of test
    samples in the commonest class of their most responsible component.
    """
    found = evidence["explicit_em"]
    end = end_of(found["curves"], "pass")
    chosen = [best(found["curves"], methods, "pass", end) for methods in (EXPLICIT, DESCENT)]
    finals = found["finals"].set_index("seed")
    explicit, descent = (rows_of(finals, method=one.method, rate=one.rate) for one in chosen)
    gap = statistics.difference(explicit["purity"], descent["purity"])
    mutual = [100 * one["nmi"].mean() for one in (explicit, descent)]
    return Finding(
        outcome(max(map(abs, gap.ends)) < AS_PURE, abs(gap.value) < AS_PURE),
        gap,
        gap.points(),
        f"Mutual information with the classes: {mutual[0]:.1f} and {mutual[1]:.1f} %.",
    )


def _candidate(evidence: Evidence, name: str) -> pd.DataFrame:
    """Return the runs of a candidate with a weight of 1 for LSE."""
    return rows_of(evidence["volume"]["runs"], candidate=name, weight=1)


FEW = 16
"""Number of lower units, of 64, up to which an upper unit is made of a few."""


@claim("depth", "A second layer makes classes easier to read", "sparse probe above one layer's")
def second_layer_reads_better(evidence: Evidence) -> Finding:
    """Yes if the sparse probe of 5 units on the second of two layers is above that on the first
    layer of the same run, and above that on one layer of as many parameters, both where the layers
    are trained in turn and where they are trained jointly: all four paired differences have
    intervals above 0. Partly if both differences do in one of the two ways of training.
    """
    equal = _layer(evidence, "one", 1, 1, units=EQUAL[2])
    rises, above, texts = [], [], []
    for way in ("turns", "joint"):
        first, second = (_layer(evidence, way, 2, layer) for layer in (1, 2))
        rise, lead = (statistics.difference(second, other) for other in (first, equal))
        rises.append(rise)
        above.append(rise.above() and lead.above())
        texts.append(f"{WAYS[way]} {rise.points()} over the first, {lead.points()} over one layer")
    return Finding(
        outcome(all(above), any(above)),
        rises[0],
        "; ".join(texts),
        "The probe of a single unit, on the second of layers trained in turn less that on the "
        f"first: {_rise(evidence, 'sparse_probe_1')}.",
    )


@claim("depth", "Joint training is better than layer by layer", "sparse probe above that in turn")
def joint_is_better(evidence: Evidence) -> Finding:
    """Yes if the sparse probe of 5 units on the last layer is higher where layers are trained
    jointly than where they are trained in turn, for two and for three layers: both paired
    differences have intervals above 0. Partly if one has.
    """
    gaps = _gaps(evidence, "joint", "turns")
    above = [gap.above() for gap in gaps]
    purer = _gaps(evidence, "joint", "turns", "top_purity")
    return Finding(
        outcome(all(above), any(above)),
        gaps[0],
        _of_both(gaps),
        f"Purity of the last layer's units, jointly against in turn: {_of_both(purer)}.",
    )


@claim("depth", "Layers need not wait for those below", "at most 0.3 points below in turn")
def layers_need_not_wait(evidence: Evidence) -> Finding:
    """Yes if the sparse probe of 5 units on the last layer, where all layers learn at the same time
    and each from its own terms alone, is close to where they learn in turn, for two and for three
    layers: both paired differences have intervals above -0.3 points. Partly if both mean
    differences are above -0.3 points.
    """
    gaps = _gaps(evidence, "together", "turns")
    lows = [gap.ends[0] for gap in gaps]
    return Finding(
        outcome(min(lows) > -CLOSE, min(gap.value for gap in gaps) > -CLOSE),
        gaps[0],
        _of_both(gaps),
        "Three layers in turn take three times as many epochs.",
    )


@claim("depth", "Upper units are mixtures of a few of their class", "few, and of its class")
def upper_units_are_mixtures(evidence: Evidence) -> Finding:
    """Yes if the units of the second of two layers consist of few lower units of their own class,
    both where the layers are trained in turn and where they are trained jointly. Few: at most 16 of
    the 64 lower units carry 90 % of the absolute sum of a unit's weights, as the median over the
    units and the mean over the seeds. Of their own class: the share of a unit's positive weights
    that lies on lower units whose strongest 100 samples have the same commonest class, less that
    which equal weights would give, has an interval above 0. Partly if one of the two holds in both
    ways of training.
    """
    gaps, few, texts = [], [], []
    for way in ("turns", "joint"):
        carried, agreement, chance = (
            _layer(evidence, way, 2, 2, measure) for measure in ("carried", "agreement", "chance")
        )
        few.append(carried.mean() <= FEW)
        gaps.append(statistics.difference(agreement, chance))
        text = f"{WAYS[way]} {carried.mean():.0f} units, weight on their class less chance "
        texts.append(text + gaps[-1].points(1))
    agree = [gap.above() for gap in gaps]
    return Finding(
        outcome(all(few + agree), all(few) or all(agree)),
        gaps[0],
        "; ".join(texts),
        "In rows of normal random numbers, 41 of 64 units carry 90 %. Purity of the second of "
        f"layers trained in turn less that of the first: {_rise(evidence, 'top_purity')}.",
    )


def _layer(
    evidence: Evidence,
    way: str,
    layers: int,
    layer: int,
    measure: str = "sparse_probe_5",
    units: int = 64,
) -> pd.Series:
    """Return what was measured of a layer of the nets of one kind, by seed."""
    rows = evidence["depth"]["layers"]
    own = rows_of(rows, way=way, layers=layers, layer=layer, units=units)
    return own.set_index("seed")[measure]


def _gaps(
    evidence: Evidence, way: str, other: str, measure: str = "sparse_probe_5"
) -> list[Estimate]:
    """Return the paired differences of two ways' last layers, for two and for three layers."""
    return [
        statistics.difference(*(_layer(evidence, one, n, n, measure) for one in (way, other)))
        for n in (2, 3)
    ]


def _rise(evidence: Evidence, measure: str) -> str:
    """Return what the second of layers trained in turn has more than the first, as text."""
    second, first = (_layer(evidence, "turns", 2, layer, measure) for layer in (2, 1))
    return statistics.difference(second, first).points()


def _of_both(gaps: Sequence[Estimate]) -> str:
    two, three = (gap.points() for gap in gaps)
    return f"{two} with two layers, {three} with three"


@claim("lse", "In real runs LSE counts the active units", "R² of at least 0.9, above that of L1")
def lse_counts(evidence: Evidence) -> Finding:
    """Yes if, with the paper's objective, ReLU, a weight of 1 and a temperature of 1, the share of
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
    table = evidence["lse"]["responsibilities"].query("decay > 0 and weight == 1")
    table = table.replace({"activation": lse.ACTIVATIONS})
    settings = table.groupby(["activation", "temperature"], sort=False)
    said = settings["information"].mean().groupby("activation", sort=False).max()
    found: dict[str, list[str]] = {}
    for (name, temperature), runs in settings:
        meaning = (runs["perplexity_share"] <= 0.5) & (runs["information"] >= 0.5)
        lost = (runs["probe_at_one"] - runs["probe_accuracy"]).mean(skipna=False)
        if meaning.all() and lost <= HALF_A_POINT:
            found.setdefault(str(name), []).append(f"{temperature:g}")
    relu = rows_of(table, activation="ReLU")
    where = "; ".join(f"{name} at {', '.join(at)}" for name, at in found.items())
    return Finding(
        outcome("ReLU" in found, found),
        Estimate(said["ReLU"]),
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
    ones = table.query("weight == 1 and temperature == 1 and decay > 0")
    least, most = (
        ones.pivot(index="seed", columns="activation", values=key).rename(columns=lse.ACTIVATIONS)
        for key in ("purity_least", "purity_most")
    )
    relu, others = least["ReLU"], least.drop(columns="ReLU")
    purer = [n for n, own in others.items() if statistics.difference(own, relu).above()]
    found = [n for n in purer if statistics.difference(least[n], most[n]).above()]
    shown = [
        f"{name} {100 * own.mean():.1f} % (largest: {100 * most[name].mean():.1f} %)"
        for name, own in others.items()
    ]
    return Finding(
        outcome(found, purer),
        statistics.mean_share(others[others.mean().idxmax()]),
        f"{', '.join(shown)}; ReLU {100 * relu.mean():.1f} %",
        f"Low energies match for: {', '.join(found) or 'none'}.",
    )


@claim("reconstruction", "L1's lead is in the directions of its rows", "ahead at equal shares, too")
def the_lead_is_in_directions(evidence: Evidence) -> Finding:
    """Yes if at both densities L1 has a better probe than the derived model, and still has it once
    the thresholds of both are moved so that each unit is active on the same share of the training
    samples. Each difference, paired over the seeds, needs an interval above 0. Partly if that holds
    at one density. No if L1 has no lead as trained.
    """
    as_trained = _leads(evidence, "l1", "derived")
    equal = _leads(evidence, "l1", "derived", "probe_equal")
    there = [at for at in as_trained if as_trained[at].above()]
    kept = [at for at in there if equal[at].above()]
    return Finding(
        outcome(len(kept) == len(as_trained), kept),
        equal[reconstruction.DENSITIES[0]],
        f"equal shares: {_at_densities(equal)}",
        f"As trained, L1 is ahead by {_at_densities(as_trained)}.",
    )


@claim("reconstruction", "Weight decay closes the gap to L1", "at most 0.3 points below, at both")
def decay_closes_the_gap(evidence: Evidence) -> Finding:
    """Yes if at both densities the difference between the probe of the derived model with weight
    decay and that of L1, paired over the seeds, has an interval above -0.3 points. Partly if it has
    at one.
    """
    gaps = _leads(evidence, "derived_decay", "l1")
    closed = [at for at, gap in gaps.items() if gap.above(-CLOSE)]
    others = _at_densities(_leads(evidence, "derived", "l1"))
    return _by_densities(gaps, closed, f"Without decay: {others}.")


@claim("reconstruction", "With a decoder as well, the derived terms beat L1", "ahead at both")
def the_hybrid_beats_l1(evidence: Evidence) -> Finding:
    """Yes if at both densities the hybrid with weight decay and a weight of 10,000 for the squared
    error has a better probe than L1. The difference, paired over the seeds, needs an interval above
    0. Partly if it has one at one density.
    """
    leads = _leads(evidence, "hybrid_10000_decay", "l1")
    won = [at for at, lead in leads.items() if lead.above()]
    others = _at_densities(_leads(evidence, "hybrid_100_decay", "l1"))
    return _by_densities(leads, won, f"With a weight of 100: {others}.")


@claim("reconstruction", "The probe follows the explained variance", "rank correlation of -0.7")
def the_probe_follows_the_variance(evidence: Evidence) -> Finding:
    """Yes if at both densities, over the means of the nine variants, the rank correlation between
    the probe and the variance that the ridge decoder leaves unexplained is at most -0.7. Partly if
    at one.
    """
    runs = evidence["reconstruction"]["runs"]
    means = runs.groupby(["target", "variant"])[["probe_accuracy", "ridge_fvu"]].mean()
    found = {
        at: means.loc[at, "probe_accuracy"].corr(means.loc[at, "ridge_fvu"], "spearman")
        for at in reconstruction.DENSITIES
    }
    low = [at for at, value in found.items() if value <= -STRONG]
    return Finding(
        outcome(len(low) == len(found), low),
        Estimate(found[reconstruction.DENSITIES[0]]),
        ", ".join(f"{value:.2f} at {100 * at:.0f} %" for at, value in found.items()),
        "A negative correlation means: the more variance is explained, the better the probe.",
    )


def _leads(
    evidence: Evidence, first: str, second: str, column: str = "probe_accuracy"
) -> dict[float, Estimate]:
    """Return how far one variant is ahead of another, by density."""
    runs = evidence["reconstruction"]["runs"].set_index("seed")
    return {
        at: statistics.difference(
            *(rows_of(runs, target=at, variant=name)[column] for name in (first, second))
        )
        for at in reconstruction.DENSITIES
    }


def _by_densities(leads: Mapping[float, Estimate], met: Sequence[float], why: str) -> Finding:
    """Judge by the densities at which a criterion is met."""
    first = leads[reconstruction.DENSITIES[0]]
    return Finding(outcome(len(met) == len(leads), met), first, _at_densities(leads), why)


def _at_densities(leads: Mapping[float, Estimate]) -> str:
    return ", ".join(f"{e.points()} at {100 * at:.0f} %" for at, e in leads.items())


@claim("anomaly", "The evidence is a better anomaly score than the references", "on 2 of 3 kinds")
def evidence_beats_references(evidence: Evidence) -> Finding:
    """Yes if on at least two of the three kinds of tasks (Fashion-MNIST, held-out digits, corrupted
    digits) the evidence of the paper's objective has a higher mean AUROC over the tasks than each
    of the four references: Gaussian mixture, k-means, isolation forest, error of the SAE. Each
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
    """Yes if on at least two of the three kinds of tasks the evidence of the paper's objective has
    a higher mean AUROC over the tasks than the number of active units of the same model; the
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
        if all(statistics.difference(aurocs[method], aurocs[o]).above() for o in others):
            won.append(name)
    return Finding(
        outcome(len(won) >= 2, won),
        statistics.mean_share(pd.concat(own, axis=1).mean(axis=1)),
        f"{len(won)} of {len(own)}; {', '.join(shown)}",
        f"Better on: {', '.join(won) or 'none'}.",
    )


@claim("on_or_off", "The identities hold in trained models", "up to 1e-10")
def identities_hold(evidence: Evidence) -> Finding:
    """Yes if in every trained model whose units have responsibilities, on 500 test samples in
    float64, the derivative of the free energy by the energies is the responsibility, and its
    negative gradient by the inputs is the reconstruction less the input, both up to 1e-10 of the
    largest entry. Partly if one of the two holds.
    """
    runs = evidence["on_or_off"]["runs"]
    own = runs[~runs["variant"].isin(on_or_off.HARD)]
    energies, inputs = (float(own[name].max(skipna=False)) for name in ("of_energies", "of_inputs"))
    return Finding(
        outcome(max(energies, inputs) <= EXACT, min(energies, inputs) <= EXACT),
        Estimate(max(energies, inputs), n=len(own)),
        f"{energies:.1e} by the energies, {inputs:.1e} by the inputs",
        f"The largest of {len(own)} runs.",
    )


@claim("on_or_off", "Each of the two terms is needed", "without it, less explained")
def both_terms_are_needed(evidence: Evidence) -> Finding:
    """Yes if a ridge decoder leaves more variance unexplained without the squared error and without
    the slab, at each of the three numbers of active units: all six paired differences have
    intervals above 0. Partly if that holds of one of the two terms.
    """
    gaps = {n: _more_left(evidence, f"without_{n}", "score") for n in ("error", "slab")}
    needed = [name for name, own in gaps.items() if all(gap.above() for gap in own.values())]
    shown = (f"without the {on_or_off.TERMS[name]} {_at_l0(own)}" for name, own in gaps.items())
    return Finding(
        outcome(len(needed) == len(gaps), needed),
        gaps["slab"][on_or_off.L0[0]],
        "; ".join(shown),
        f"Needed: {', '.join(on_or_off.TERMS[name] for name in needed) or 'none'}.",
    )


@claim("on_or_off", "Responsibilities may be held fixed", "as much explained by the rows")
def they_may_be_held(evidence: Evidence) -> Finding:
    """Yes if the rows of a model that holds its responsibilities fixed leave at most 0.5 points
    more variance unexplained than those of one whose gradient goes through them, at each number of
    active units: all paired differences have intervals below 0.5 points. Partly if only the mean
    differences are.
    """
    gaps = _more_left(evidence, "score", "through", "fvu")
    return Finding(
        outcome(
            all(gap.below(AS_MUCH) for gap in gaps.values()),
            all(gap.value < AS_MUCH for gap in gaps.values()),
        ),
        gaps[on_or_off.L0[0]],
        _at_l0(gaps),
        "A negative difference means: more is explained where they are held.",
    )


@claim("on_or_off", "Denoising may stand for the divergence", "as much explained by the rows")
def denoising_does_as_well(evidence: Evidence) -> Finding:
    """Yes if the rows of a model that is trained by denoising leave as much variance unexplained as
    those of one whose score is matched, both with gradients through the responsibilities, at each
    number of active units: all paired differences have intervals within 0.5 points of 0. Partly if
    the mean differences are within it.
    """
    gaps = _more_left(evidence, "denoising", "through", "fvu")
    return Finding(
        outcome(
            all(gap.within(AS_MUCH) for gap in gaps.values()),
            all(abs(gap.value) < AS_MUCH for gap in gaps.values()),
        ),
        gaps[on_or_off.L0[0]],
        _at_l0(gaps),
        "A positive difference means: denoising leaves more unexplained.",
    )


@claim("on_or_off", "The temperature is the variance of the residual", "within a factor of 2")
def temperature_is_the_residual(evidence: Evidence) -> Finding:
    """Yes if the temperature that training reaches is within a factor of 2 of the mean square of
    the residual, per dimension and in the units of the model, at each number of active units, as
    the mean over the seeds. Partly if at one or two of them.
    """
    runs = evidence["on_or_off"]["runs"]
    ratios = {}
    for target in on_or_off.L0:
        both = (on_or_off.at_rate(runs, "score", target, n) for n in ("temperature", "residual"))
        ratios[target] = statistics.ratio(*both)
    near = [target for target, ratio in ratios.items() if 0.5 <= ratio.value <= 2]
    shown = (f"{ratio.text()} at {target}" for target, ratio in ratios.items())
    return Finding(
        outcome(len(near) == len(ratios), near),
        ratios[on_or_off.L0[0]],
        f"temperature / variance {', '.join(shown)}",
        "Where the two agree, the temperature is the noise that the model leaves unexplained.",
    )


@claim("on_or_off", "Responsibilities say more than on or off", "probe on r above")
def responsibilities_say_more(evidence: Evidence) -> Finding:
    """Yes if the linear probe on the responsibilities is better than that on whether they exceed
    1/2, at each number of active units: the paired differences have intervals above 0. Partly if at
    one or two of them.
    """
    runs = evidence["on_or_off"]["runs"]
    gaps = {}
    for target in on_or_off.L0:
        both = (on_or_off.at_rate(runs, "score", target, n) for n in ("probe_r", "probe_on"))
        gaps[target] = statistics.difference(*both)
    above = [target for target, gap in gaps.items() if gap.above()]
    code = on_or_off.at_rate(runs, "score", on_or_off.L0[0], "probe_accuracy")
    return Finding(
        outcome(len(above) == len(gaps), above),
        gaps[on_or_off.L0[0]],
        _at_l0(gaps),
        f"On the code, with its strengths, the probe is at {100 * code.mean():.2f} % at "
        f"{on_or_off.L0[0]}.",
    )


@claim("on_or_off", "Variance or decorrelation adds something", "0.5 points, of variance or probe")
def volume_terms_add(evidence: Evidence) -> Finding:
    """Yes if both of the paper's volume terms add something at 8 active units. A term does if at
    one of three weights a ridge decoder explains more variance, or the probe is better, than
    without it: the paired difference has an interval above 0.5 points. Partly if one does.
    """
    runs = evidence["on_or_off"]["runs"]
    alone = {
        name: on_or_off.at_rate(runs, "score", 8, name) for name in ("ridge_fvu", "probe_accuracy")
    }
    best, adds = {}, []
    for term in ("variance", "decorrelation"):
        gaps = []
        for _, own in rows_of(runs, variant=term).groupby("weight"):
            seeds = own.set_index("seed")
            gaps.append(statistics.difference(alone["ridge_fvu"], seeds["ridge_fvu"]))
            gaps.append(statistics.difference(seeds["probe_accuracy"], alone["probe_accuracy"]))
        best[term] = max(gaps, key=lambda gap: gap.ends[0])
        adds += [term] if best[term].above(AS_MUCH) else []
    return Finding(
        outcome(len(adds) == len(best), adds),
        best["variance"],
        ", ".join(f"{term} at its best {gap.points()}" for term, gap in best.items()),
        f"Something is added by: {', '.join(adds) or 'none'}.",
    )


@claim("on_or_off", "The soft model beats its hard limits", "more explained by the rows")
def soft_beats_hard(evidence: Evidence) -> Finding:
    """Yes if the rows of the soft model leave less variance unexplained than those of tied TopK and
    of tied BatchTopK, each at its best of three rates, at each number of active units: all paired
    differences have intervals below 0. Partly if it is ahead of both at one number of active units,
    or of one of them at every number.
    """
    runs = evidence["on_or_off"]["runs"]
    gaps = {
        hard: {
            target: statistics.difference(
                *(on_or_off.at_best(runs, name, target) for name in ("score", hard))
            )
            for target in on_or_off.L0
        }
        for hard in on_or_off.HARD
    }
    ahead = {hard: [t for t, gap in own.items() if gap.below()] for hard, own in gaps.items()}
    everywhere = [hard for hard, at in ahead.items() if len(at) == len(on_or_off.L0)]
    first, second = map(set, ahead.values())
    return Finding(
        outcome(len(everywhere) == len(gaps), everywhere or first & second),
        gaps[on_or_off.HARD[0]][on_or_off.L0[0]],
        "; ".join(f"{on_or_off.VARIANTS[hard]} {_at_l0(own)}" for hard, own in gaps.items()),
        "A negative difference means: the soft model leaves less unexplained.",
    )


@claim("on_or_off", "Training ends", "settled, none dead, in all runs")
def units_settle(evidence: Evidence) -> Finding:
    """Yes if at every one of the three rates every run settles, by the rule of the volume control,
    and no unit is dead (variance below 0.01) in any of them. Partly if that holds at two of the
    rates.
    """
    return _ends(_of_length(evidence["on_or_off"], "settling"))


@claim("on_or_off", "In twice as many epochs, it ends", "settled, none dead, in all runs")
def units_settle_longer(evidence: Evidence) -> Finding:
    """Yes if the same holds of runs of 200 epochs: at every one of the three rates every run
    settles, and no unit is dead in any of them. Partly if that holds at two of the rates.
    """
    return _ends(_of_length(evidence["on_or_off"], "longer"))


def _of_length(tables: Tables, sweep: str) -> pd.DataFrame:
    """Return the runs at three rates of a sweep."""
    return rows_of(tables["settling"], epochs=on_or_off.SETTLING[sweep])


def _more_left(
    evidence: Evidence, first: str, second: str, column: str = "ridge_fvu"
) -> dict[int, Estimate]:
    """Return how much more variance one variant leaves than another, by active units."""
    runs = evidence["on_or_off"]["runs"]
    return {
        target: statistics.difference(
            *(on_or_off.at_rate(runs, name, target, column) for name in (first, second))
        )
        for target in on_or_off.L0
    }


def _at_l0(gaps: Mapping[int, Estimate]) -> str:
    return ", ".join(f"{gap.points()} at {target}" for target, gap in gaps.items())


@claim(
    "dead_units", "On samples less their mean, fewer units are dead", "fewer, and the probe kept"
)
def centring_revives(evidence: Evidence) -> Finding:
    """Yes if without another remedy fewer units are silent on samples less their mean, on average
    over both numbers of active units, and the probe is at most 0.3 points worse: the paired
    difference of silent units has an interval below 0, that of the probe one above -0.3 points.
    Partly if only the first holds.
    """
    dead, probe = (
        statistics.difference(*(dead_units.paired(evidence, "none", own, column) for own in BOTH))
        for column in ("silent_units", "probe_accuracy")
    )
    return Finding(
        outcome(dead.below() and probe.ends[0] > -CLOSE, dead.below()),
        dead,
        f"{dead.text()} units, probe {probe.points()}",
        "A negative number of units means: fewer are dead.",
    )


@claim("dead_units", "Another remedy adds to it", "0.5 points of the probe")
def remedies_add(evidence: Evidence) -> Finding:
    """Yes if another remedy makes the probe better on samples less their mean, on average over both
    numbers of active units: the paired difference has an interval above 0.5 points. Partly if one
    has an interval above 0. The guard has the better of two weights.
    """
    centred = partial(dead_units.paired, evidence, samples="centre")
    alone = centred("none", column="probe_accuracy")
    gaps = {
        remedy: statistics.difference(centred(remedy, column="probe_accuracy"), alone)
        for remedy in dead_units.REMEDIES
        if remedy != "none"
    }
    best = max(gaps.values(), key=lambda gap: gap.ends[0])
    dead = {n: centred(n, column="silent_units").mean() for n in dead_units.REMEDIES}
    shown = (f"{dead_units.REMEDIES[name]} {gap.points()}" for name, gap in gaps.items())
    left = (f"{dead_units.REMEDIES[name]} {number:.1f}" for name, number in dead.items())
    return Finding(
        outcome(best.above(AS_MUCH), best.above()),
        best,
        ", ".join(shown),
        f"Dead units on average: {', '.join(left)}.",
    )


@claim("dead_units", "On samples less their mean, training ends", "settled, none dead, in all runs")
def centred_units_settle(evidence: Evidence) -> Finding:
    """Yes if at every one of three rates every run of 100 epochs settles, by the rule of the volume
    control, and no unit is dead (variance below 0.01) in any of them. Partly if that holds at two
    of the rates.
    """
    return _ends(_of_length(evidence["dead_units"], "settling"))


@claim("dead_units", "In twice as many epochs, it ends there", "settled, none dead, in all runs")
def centred_units_settle_longer(evidence: Evidence) -> Finding:
    """Yes if the same holds of runs of 200 epochs: at every one of the three rates every run
    settles, and no unit is dead in any of them. Partly if that holds at two of the rates.
    """
    return _ends(_of_length(evidence["dead_units"], "longer"))
