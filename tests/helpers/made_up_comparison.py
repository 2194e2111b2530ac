"""Made-up results: what a part of the comparison would find if each family had a given curve."""

import numpy as np
import pandas as pd

from helpers.paths import ROOT
from helpers.studies import crossed
from implicit_em.metrics.densities import BINS
from implicit_em_studies.comparison.matching import select
from implicit_em_studies.comparison.protocol import ComparisonProtocol
from implicit_em_studies.comparison.results import ComparisonResults

KNOBS = np.geomspace(0.03, 0.6, 8)
NOISE = (-1.0, 0.4, 1.0, 0.1, -0.5)
CONTROLS = {"pixels": 0.918, "pca": 0.9173, "gmm": 0.9167, "kmeans": 0.93, "random": 0.8147}


def curve(density, level=0.94, sparse=0.03):
    """Accuracy over density: worse by ``sparse`` at 3 %, then level."""
    return level - sparse * (1 - np.log(density / 0.03) / np.log(20))


def results(
    families=None, widths=None, spread=0.001, part="equal_width", **changes
) -> ComparisonResults:
    """Return the results of families, each with the level of its curve.

    Args:
        families: level by family; all of the protocol's, the first the best, where none are given.
        widths: K of those that are not 64 wide.
        spread: deviation over the seeds.
        part: name of the part.
        changes: of the protocol's keys.
    """
    protocol = ComparisonProtocol.read(ROOT / "conf").of_part(part)
    levels = families or {f: 0.945 - 0.004 * n for n, f in enumerate(protocol.families)}
    protocol = protocol.model_copy(update={"families": list(levels), **changes})
    tuning = crossed(family=levels, density=KNOBS, lr=(1e-3, 3e-3))
    texts = [f"{knob:.3g}, lr={rate:g}" for _, knob, rate in tuning.itertuples(index=False)]
    tuning["settings"] = [f"knob={text}" for text in texts]
    tuning["run"] = tuning["family"] + " " + pd.Series(texts).str.replace(", lr=", " ")
    probe = curve(tuning["density"], tuning["family"].map(levels))
    tuning["probe_accuracy"] = probe - 0.002 * (tuning.pop("lr") != 1e-3)
    tuning = tuning.assign(silent_units=0.0, final_loss=1.0, error=None)
    chosen = select(tuning, protocol.densities, protocol.reach, protocol.beyond)
    picked = tuning[tuning["run"].isin(chosen["run"])]
    finals = pd.DataFrame(
        [
            _final(row.family, row.settings, seed, row.density, levels[row.family], noise)
            | {"units": (widths or {}).get(row.family, 64)}
            for row in picked.itertuples()
            for seed, noise in _noise(protocol, row.family, spread)
        ]
    )
    finals["active_units"] = finals["exact_density"] * finals["units"]
    controls = pd.DataFrame(
        [_final(family, "", 1, 0.9, level, 0) | {"units": 64} for family, level in CONTROLS.items()]
    ).assign(exact_density=[0.19, 1, 1, 0.47, 0.5])
    stability = picked[["family", "settings"]].assign(encoder_stability=0.7, decoder_stability=0.8)
    diverged = pd.DataFrame(columns=["family", "settings", "seed"])
    more = stability, diverged, f"mnist, {part}", {}, (28, 28)
    return ComparisonResults(protocol, "", tuning, chosen, finals, controls, *more)


def _noise(protocol, family, spread):
    """Pair each seed with a deviation, in an order of the family's own."""
    turned = np.roll(NOISE, protocol.families.index(family))
    return zip(protocol.seeds, spread * turned, strict=False)


def _final(family, settings, seed, density, level, noise):
    units = dict.fromkeys(BINS, 64 / 14)
    shared = dict.fromkeys(
        (
            *("relative_density", "class_purity", "redundancy", "fvu"),
            *(f"sparse_probe_{size}" for size in (1, 2, 5, 10)),
            *("encoder_coherence_mean", "decoder_coherence_mean"),
        ),
        0.5,
    )
    return {
        "family": family,
        "settings": settings,
        "seed": seed,
        "run": f"{family} {settings} {seed}",
        "parameters": 101_200,
        "exact_density": density * (1 + 3 * noise),
        "probe_accuracy": curve(density, level) + noise,
        "least_squares_fvu": 0.6 - 0.4 * curve(density, level, 0.3) + noise,
        "dead_units": 1,
        "silent_units": 0,
        **units,
        **shared,
    }
