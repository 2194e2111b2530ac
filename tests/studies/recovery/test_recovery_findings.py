"""What the tables say: other tables, other sentences."""

from dataclasses import replace

import numpy as np
import pandas as pd

from implicit_em.config import CONF
from implicit_em_studies.recovery.protocol import FOUND, RecoveryProtocol
from implicit_em_studies.recovery.results import RecoveryResults

NOISE = (-0.02, 0.01, 0.02, -0.01, 0.0)
SEEDS = range(1, 6)


def results(shares, lost_by_blind=0.0, missed=0, control=0.2):
    """Return results of families with these shares in each cell, chosen by two criteria."""
    protocol = RecoveryProtocol.read(CONF)
    settings = {"truth": "best", "blind": "best" if not lost_by_blind else "other"}
    chosen, finals = [], []
    for cell, families in shares.items():
        for family, share in families.items():
            row = {"cell": cell, "family": family}
            chosen += [
                {**row, "criterion": criterion, "settings": own, "run": own}
                for criterion, own in settings.items()
            ]
            noise = np.roll(NOISE, len(family)) if share else np.zeros(len(SEEDS))
            for own in sorted(set(settings.values())):
                found = share - (lost_by_blind if own == "other" else 0) + noise
                finals += [
                    {**row, "settings": own, "seed": seed, "true_l0": 2.56, FOUND: value}
                    for seed, value in zip(SEEDS, found, strict=True)
                ]
    tuning = pd.DataFrame({"family": ["derived", "topk"], "ridge_fvu": [0.1, np.nan]})
    controls = [
        {"cell": cell, "family": name, FOUND: share, "mean_cosine": 0.4}
        for cell in shares
        for name, share in (("ica", control), ("random", 0.0))
    ]
    finals = pd.DataFrame(finals)
    topk = finals["family"] == "topk"
    finals["l0_target"] = np.where(topk, 4.0, np.nan)
    finals["l0_reached"] = np.where(topk, topk.cumsum() > missed, np.nan).astype(object)
    tables = tuning, pd.DataFrame(chosen), finals, pd.DataFrame(controls)
    return RecoveryResults(protocol, "", *tables)


def said(*arguments, **options):
    return " ".join(results(*arguments, **options).findings)


BOTH = {"middle": {"derived": 0.9, "topk": 0.6}, "dense": {"derived": 0.3, "topk": 0.7}}


def test_who_leads_is_said_of_each_cell_and_where_the_derived_model_falls_behind():
    text = said(BOTH)
    by, without = "with settings chosen by the truth", "with settings chosen without the truth"
    assert f"In middle, {by}, derived has the best mean, 90.00 %" in text
    assert f"In dense, {without}, TopK has the best mean, 70.00 %" in text
    assert "Derived is significantly worse than TopK (dense)." in text
    assert "Derived is significantly better than TopK (middle)." in text
    assert "Of 2 paired tests in the same cell, settings chosen by the truth, derived is" in text
    behind = results(BOTH).behind
    assert set(behind["cell"]) == {"dense"}
    assert list(behind["its mean"]) == ["70.0 %"] * 2
    assert all(text.startswith("+40.00 [") for text in behind["points ahead"])
    assert results({"middle": {"derived": 0.601, "topk": 0.6}}).behind.empty, "within the noise"


def test_where_nobody_finds_anything_nobody_leads_and_nothing_is_tested():
    text = said({"middle": {"derived": 0.0, "topk": 0.0}})
    assert "has the best mean" not in text
    assert "paired tests" not in text
    assert "Derived is significantly" not in text
    assert "nan" not in text


def test_what_the_blind_choice_loses_is_said():
    assert "over the cells: derived 10.00; TopK 10.00." in said(BOTH, lost_by_blind=0.1)
    assert "over the cells: derived 0.00; TopK 0.00." in said(BOTH)


def test_finals_that_miss_their_number_of_active_units_are_counted():
    said_of = "Of 10 finals with an `l0_target`, {} it by more than 5 %"
    assert said_of.format("0 miss") + "." in said(BOTH)
    assert said_of.format("3 miss") + ": 3 of TopK." in said(BOTH, missed=3)
    assert said_of.format("1 misses") + ": 1 of TopK." in said(BOTH, missed=1)


def test_controls_and_what_diverged_are_said():
    assert "Controls find at most 20.0 % of the features of a cell (ICA, middle)." in said(BOTH)
    assert "No control finds a feature in any cell." in said(BOTH, control=0.0)
    assert "Settings of the grids that diverged: 1 of TopK." in said(BOTH)
    made = results(BOTH)
    assert replace(made, controls=made.controls[[]][:0]).random.empty, "a study without controls"
