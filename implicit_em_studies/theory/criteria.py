"""What has to be seen for each question to be answered with yes.

One function a claim: its docstring has the claim and the criterion in words, its body the criterion
in code. It judges what the experiments measured, and measures nothing itself. The file was
committed before the first full run; a last paragraph says what had to change afterwards.

All intervals are 95 % intervals over seeds; runs of the same seed are paired. Fractions such as
accuracies are in [0, 1].
"""

from collections.abc import Mapping
from itertools import product

import pandas as pd

from implicit_em_studies.shared import statistics
from implicit_em_studies.shared.claims import Claims, Finding
from implicit_em_studies.shared.experiment import Measured
from implicit_em_studies.shared.statistics import Estimate
from implicit_em_studies.shared.tables import rows_of
from implicit_em_studies.theory import lse, on_or_off, volume
from implicit_em_studies.theory.explicit_em import DESCENT, EXPLICIT, best, end_of

CLAIMS = Claims("fixed beforehand", ("yes", "partly", "no"))
claim, outcome = CLAIMS.claim, CLAIMS.outcome
CLOSE = 0.003
"""Difference in probe accuracy that counts as none."""
AS_PURE = 0.01
"""Difference in purity that counts as none."""
HALF_A_POINT = 0.005
"""Probe accuracy that a temperature may cost, and unexplained variance that counts as none."""


@claim("volume", "settled, none dead, in all runs")
def decay_settles(measured: Measured) -> Finding:
    """With weight decay, training ends.

    Yes if with weight decay every run at every one of the three rates settles, and no unit is
    dead (variance below 0.01) in any of them. A run settles at the epoch from which on, up to its
    end and for at least five epochs, neither its rows nor its correlations get farther in ten
    epochs than a random walk would, sqrt(10) times as far as in one. Partly if every run at two of
    the rates settles, with no dead unit.

    Amended: For 'partly', the code asked that no unit be dead at all three rates. The words ask it
    of two, and so does the code now. The verdict was no.
    """
    return _settles(measured, "decay")


@claim("volume", "settled, none dead, in all runs")
def unit_rows_settle(measured: Measured) -> Finding:
    """With unit rows, training ends.

    Yes if the same holds of unit rows times a gain of 4.5: at every one of the three rates every
    run settles, and no unit is dead in any of them. Partly if that holds at two of the rates.

    Amended: Added after the first full run, in which unit rows had settled at the middle rate. It
    was committed before they were trained at the other two.
    """
    return _settles(measured, "unit")


def _settles(measured: Measured, name: str) -> Finding:
    """Judge runs at three rates by whether they settle, and whether units are dead."""
    today, runs = (_candidate(measured, candidate) for candidate in ("today", name))
    settled, dead = runs["settled"].notna(), runs["dead_units"] > 0
    good = (settled & ~dead).groupby(runs["lr"]).all()
    where = ", ".join(f"{rate:g}" for rate in sorted(runs["lr"][dead].unique()))
    return Finding(
        outcome(good.all(), good.sum() >= 2),
        statistics.share(int(settled.sum()), len(runs)),
        f"{settled.sum()} of {len(runs)} runs settle; {runs['dead_units'].max():.0f} dead at most",
        f"Units are dead at these rates: {where or 'none'}. Of the paper's objective, "
        f"{today['settled'].notna().sum()} of {len(today)} runs settle by the same rule.",
    )


@claim("volume", "at most 0.3 points below the paper's")
def decay_keeps_the_probe(measured: Measured) -> Finding:
    """Weight decay costs no probe accuracy.

    Yes if the paired difference between the probe with weight decay and the paper's, both at the
    density of the paper's objective with a weight of 1 for LSE, has an interval above -0.3 points.
    Partly if the mean difference is above -0.3 points.
    """
    matched = measured["matched"]
    probes = matched.pivot(index="seed", columns="candidate", values="probe")
    gap = statistics.difference(probes["decay"], probes["today"])
    return Finding(
        outcome(gap.ends[0] > -CLOSE, gap.value > -CLOSE),
        gap,
        gap.points(),
        "At the same density the probe is "
        + ("better with weight decay." if gap.above() else "not better with weight decay."),
    )


@claim("volume", "settled, none dead, probe kept")
def others_do_as_well(measured: Measured) -> Finding:
    """Another bounded objective does as well.

    Yes if one of the other candidates settles in every run at the middle rate and a weight of 1
    with no dead unit, and its mean probe at the density of the paper's objective is at most 0.3
    points below the paper's. Partly if one settles with no dead unit, whatever its probe.
    """
    probes = measured["matched"].groupby("candidate")["probe"].mean()
    gaps = (probes - probes["today"])[["hinge", "penalty", "unit"]]
    runs = {name: rows_of(_candidate(measured, name), lr=volume.MIDDLE) for name in gaps.index}
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


@claim("explicit_em", "equal, and no fall")
def a_step_is_an_m_step(measured: Measured) -> Finding:
    """A preconditioned gradient step is an M-step.

    Yes if, for every run of exact EM, on 10,000 training samples in float64, a gradient step on
    LSE with the preconditioner 1 / <r_j> equals the M-step up to 1e-10 of its largest entry, at the
    start and at the end; and the likelihood of all training samples never falls from one pass to
    the next by more than rounding: 1e-6 of it in the runs, in float32, and 1e-12 of it in float64.
    Partly if only the steps are equal.
    """
    steps, passes = measured["steps"], measured["passes"]
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


@claim("explicit_em", "higher likelihood")
def ahead_after_equal_passes(measured: Measured) -> Finding:
    """After the same passes, explicit EM is ahead.

    Yes if, after all passes, the likelihood of the best form of explicit EM is above that of
    gradient descent at its best: the paired difference has an interval above 0. Partly if it has
    one after a tenth of the passes. The forms are exact, incremental, and stochastic at each step
    size; gradient descent is Adam or SGD at each rate; the best has the largest mean over the
    seeds.
    """
    return _ahead(measured, "pass", "passes")


@claim("explicit_em", "higher likelihood")
def ahead_after_equal_seconds(measured: Measured) -> Finding:
    """After the same seconds, explicit EM is ahead.

    Yes if, after the seconds that the fastest setting takes for all its passes, the likelihood
    of the best form of explicit EM is above that of gradient descent at its best, as for equal
    passes. Partly if it is above after a tenth of these seconds. A setting's seconds are those of a
    pass alone, on one thread, times its passes.
    """
    return _ahead(measured, "seconds", "seconds")


def _ahead(measured: Measured, column: str, unit: str) -> Finding:
    curves = measured["curves"]
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


@claim("explicit_em", "purity within 1 point")
def components_are_as_good(measured: Measured) -> Finding:
    """Its components are as good.

    Yes if the purities of explicit EM and of gradient descent, each at the setting that is best
    after all passes, differ by less than 1 point: their paired difference has an interval within 1
    point of 0. Partly if the mean difference is within 1 point. The purity is the share of test
    samples in the commonest class of their most responsible component.
    """
    curves, finals = measured["curves"], measured["finals"].set_index("seed")
    end = end_of(curves, "pass")
    chosen = [best(curves, methods, "pass", end) for methods in (EXPLICIT, DESCENT)]
    explicit, descent = (rows_of(finals, method=one.method, rate=one.rate) for one in chosen)
    gap = statistics.difference(explicit["purity"], descent["purity"])
    mutual = [100 * one["nmi"].mean() for one in (explicit, descent)]
    return Finding(
        outcome(max(map(abs, gap.ends)) < AS_PURE, abs(gap.value) < AS_PURE),
        gap,
        gap.points(),
        f"Mutual information with the classes: {mutual[0]:.1f} and {mutual[1]:.1f} %.",
    )


def _candidate(measured: Measured, name: str) -> pd.DataFrame:
    """Return the runs of a candidate with a weight of 1 for LSE."""
    return rows_of(measured["runs"], candidate=name, weight=1)


@claim("lse", "R² of at least 0.9, above that of L1")
def lse_counts(measured: Measured) -> Finding:
    """In real runs LSE counts the active units.

    Yes if, with the paper's objective, ReLU, a weight of 1 and a temperature of 1, the share of
    active units explains at least 90 % of the variance of LSE + log K over the test samples
    (squared correlation) in every seed, and more than the sum of the energies does. Partly if it
    explains less than 90 %, but more than the sum of the energies in every seed.
    """
    runs = lse.default(measured["regimes"])
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


@claim("lse", "perplexity at most K/2, half of the label said, probe kept")
def a_temperature_gives_meaning(measured: Measured) -> Finding:
    """Some temperature makes the responsibilities of ReLU meaningful.

    Yes if with weight decay, ReLU and a weight of 1 there is a temperature at which, in every
    seed, the mean perplexity of the responsibilities is at most K / 2 and they say at least half of
    the labels' entropy, and at which the probe is on average at most 0.5 points below that of
    temperature 1 at the same density, interpolated between weights of LSE; a density beyond theirs
    counts as a loss. Partly if that holds for softplus, the absolute value or the square; their
    units are hardly ever silent, so their probe is compared with their own at temperature 1.
    """
    table = measured["responsibilities"].query("decay > 0 and weight == 1")
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


@claim("lse", "purer than ReLU's and than a large energy")
def low_energy_is_a_match(measured: Measured) -> Finding:
    """With distance-like activations a low energy means a match.

    Yes if for softplus, the absolute value or the square, with weight decay, a weight of 1 and a
    temperature of 1, the purity of the unit of least energy is above that of ReLU, and above that
    of the same model's unit of largest energy: both paired differences have an interval above 0.
    Units with the same energy share a sample. Partly if only the first has.
    """
    table = measured["responsibilities"]
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


@claim("on_or_off", "without it, less explained")
def the_error_is_needed(measured: Measured) -> Finding:
    """The squared error is needed.

    Yes if a ridge decoder leaves more variance unexplained without the squared error, at each of
    the three numbers of active units: all three paired differences have intervals above 0. Partly
    if one or two have.

    Amended: Split after the first full run. In that run, the squared error and the slab were one
    claim, that each of the two terms is needed, and its verdict was partly: the squared error was
    needed, the slab was not. The two criteria were written with this result known.
    """
    return _needed(measured, "error")


@claim("on_or_off", "without it, less explained")
def the_slab_is_needed(measured: Measured) -> Finding:
    """The slab is needed.

    Yes if a ridge decoder leaves more variance unexplained without the slab, at each of the
    three numbers of active units: all three paired differences have intervals above 0. Partly if
    one or two have.

    Amended: Split after the first full run. In that run, the squared error and the slab were one
    claim, that each of the two terms is needed, and its verdict was partly: the squared error was
    needed, the slab was not. The two criteria were written with this result known.
    """
    return _needed(measured, "slab")


def _needed(measured: Measured, term: str) -> Finding:
    gaps = _more_left(measured, f"without_{term}", "score", "ridge_fvu")
    above = [gap.above() for gap in gaps.values()]
    return Finding(
        outcome(all(above), any(above)),
        gaps[on_or_off.L0[0]],
        _at_l0(gaps),
        "A positive difference means: less is explained without it.",
    )


@claim("on_or_off", "as much explained by the rows")
def they_may_be_held(measured: Measured) -> Finding:
    """Responsibilities may be held fixed.

    Yes if the rows of a model that holds its responsibilities fixed leave at most 0.5 points
    more variance unexplained than those of one whose gradient goes through them, at each number of
    active units: all paired differences have intervals below 0.5 points. Partly if only the mean
    differences are.
    """
    gaps = _more_left(measured, "score", "through", "fvu")
    return Finding(
        outcome(
            all(gap.below(HALF_A_POINT) for gap in gaps.values()),
            all(gap.value < HALF_A_POINT for gap in gaps.values()),
        ),
        gaps[on_or_off.L0[0]],
        _at_l0(gaps),
        "A negative difference means: more is explained where they are held.",
    )


@claim("on_or_off", "more explained by the rows")
def soft_beats_hard(measured: Measured) -> Finding:
    """The soft model beats its hard limits.

    Yes if the rows of the soft model leave less variance unexplained than those of tied TopK and
    of tied BatchTopK, each at its best of three rates, at each number of active units: all paired
    differences have intervals below 0. Partly if it is ahead of both at one number of active units,
    or of one of them at every number.
    """
    runs = measured["runs"]
    gaps: dict[str, dict[int, Estimate]] = {hard: {} for hard in on_or_off.HARD}
    for hard, target in product(on_or_off.HARD, on_or_off.L0):
        both = (on_or_off.at_best(runs, name, target) for name in ("score", hard))
        gaps[hard][target] = statistics.difference(*both)
    ahead = {hard: [t for t, gap in own.items() if gap.below()] for hard, own in gaps.items()}
    everywhere = [hard for hard, at in ahead.items() if len(at) == len(on_or_off.L0)]
    first, second = map(set, ahead.values())
    return Finding(
        outcome(len(everywhere) == len(gaps), everywhere or first & second),
        gaps[on_or_off.HARD[0]][on_or_off.L0[0]],
        "; ".join(f"{on_or_off.VARIANTS[hard]} {_at_l0(own)}" for hard, own in gaps.items()),
        "A negative difference means: the soft model leaves less unexplained.",
    )


def _more_left(measured: Measured, first: str, second: str, column: str) -> dict[int, Estimate]:
    """Return how much more variance one variant leaves than another, by active units."""
    gaps = {}
    for target in on_or_off.L0:
        both = (on_or_off.at_rate(measured["runs"], n, target, column) for n in (first, second))
        gaps[target] = statistics.difference(*both)
    return gaps


def _at_l0(gaps: Mapping[int, Estimate]) -> str:
    return ", ".join(f"{gap.points()} at {target}" for target, gap in gaps.items())
