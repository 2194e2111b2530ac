"""What a knob moves, of made-up runs."""

import numpy as np
import pandas as pd
import pytest
from helpers.made_up_comparison import curve

from implicit_em.config import CONF
from implicit_em_studies.comparison.knobs import KnobsContent, effects
from implicit_em_studies.comparison.protocol import ComparisonProtocol

SEEDS = range(1, 6)
NOISE = (-1e-3, 4e-4, 1e-3, 1e-4, -5e-4)
SPARSITY = [("sparsity", f"lse={density:g}", density, 0.0) for density in (0.05, 0.1, 0.4, 0.6)]


def runs(*settings):
    """Return runs of settings: knob, text, density, and points above the curve."""
    return pd.DataFrame(
        [
            {
                "knob": knob,
                "settings": text,
                "seed": seed,
                "density": density,
                "probe_accuracy": curve(density) + above + 1e-3 * seed + (above != 0) * noise,
            }
            for knob, text, density, above in [("base", "lse=1", 0.2, 0.0), *SPARSITY, *settings]
            for seed, noise in zip(SEEDS, NOISE, strict=True)
        ]
    )


def found(table):
    """Return what is said of runs."""
    return KnobsContent(ComparisonProtocol.read(CONF), "", table).findings


def row(moved, settings):
    (found,) = moved[moved["settings"] == settings].to_dict("records")
    return found


def test_quality_is_compared_at_the_density_that_a_setting_has():
    moved = effects(runs(("start", "model=sampled", 0.15, 0.02), ("rate", "lr=1", 0.3, -0.01)), 1.1)
    better, worse = row(moved, "model=sampled"), row(moved, "lr=1")
    assert better["ahead"] == pytest.approx(0.02)  # the seeds' own levels, 1e-3 each, pair off
    assert worse["ahead"] == pytest.approx(-0.01)
    assert better["low"] < 0.02 < better["high"]
    assert better["p_holm"] == pytest.approx(2 * better["p_value"])
    assert better["density"] == pytest.approx(0.15)
    assert better["probe_accuracy"] == pytest.approx(curve(0.15) + 0.023)
    assert better["n"] == 5


def test_settings_of_the_curve_are_not_tested():
    moved = effects(runs(), 1.1)
    assert moved["ahead"].isna().all()
    assert moved["p_holm"].isna().all()
    assert moved["knob"].tolist() == ["base", *["sparsity"] * 4]


@pytest.mark.parametrize("density", [1.0, 0.01])
def test_where_the_curve_has_no_such_density_there_is_no_test(density):
    moved = effects(runs(("activation", "softplus", density, 0.02)), 1.1)
    assert pd.isna(row(moved, "softplus")["ahead"])


def test_what_diverged_is_left_out_and_said_where_no_seed_is_left():
    table = runs(("rate", "lr=1", 0.3, -0.01), ("rate", "lr=9", 0.3, -0.01))
    lost = (table["settings"] == "lr=9") | ((table["settings"] == "lr=1") & (table["seed"] == 2))
    table.loc[lost, ["density", "probe_accuracy"]] = np.nan
    moved = effects(table, 1.1)
    assert row(moved, "lr=1")["n"] == 4
    assert row(moved, "lr=9")["n"] == 0
    assert "In all seeds diverged: lr=9." in found(table)


def test_the_sentences_follow_the_table():
    still = ("schedule", "lr=cosine", 0.21, 0.0)
    better = ("start", "model=sampled", 0.12, 0.02)
    full = ("activation", "activation=softplus", 1.0, 0.0)
    said = " ".join(found(runs(still, better, full)))
    assert "sparsity (5.0 % to 60.0 %), start (12.0 % to 20.0 %), activation (20.0 % to" in said
    assert "within a factor of 1.25 with schedule." in said
    assert "1 of 1 settings are significantly better" in said, "without spread there is no test"
    assert "Better: model=sampled (+2.00 [" in said
    assert "Worse" not in said
    assert "No unit is ever off with activation=softplus." in said
    worse = ("start", "model=sampled", 0.12, -0.02)
    said = " ".join(found(runs(worse)))
    assert "0 of 1 settings are significantly better" in said
    assert "Worse: model=sampled (-2.00 [" in said


def test_a_knob_that_diverged_altogether_moves_nothing_and_stays_nowhere():
    table = runs(("start", "model=sampled", 0.3, -0.01))
    table.loc[table["knob"] == "start", ["density", "probe_accuracy"]] = np.nan
    said = found(table)
    assert not any("start" in sentence for sentence in said)
    assert said[-1] == "In all seeds diverged: model=sampled."


def test_one_seed_decides_nothing():
    table = runs(("start", "model=sampled", 0.3, -0.01))
    said = " ".join(found(table[table["seed"] == 1]))
    assert "significantly" not in said
    assert "nan" not in said
