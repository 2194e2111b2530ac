"""What the tables say: other tables, other sentences."""

import numpy as np
import pandas as pd
from helpers.paths import ROOT

from implicit_em.recover.findings import findings
from implicit_em.recover.protocol import Protocol
from implicit_em.recover.results import FOUND, Results

NOISE = (-0.02, 0.01, 0.02, -0.01, 0.0)
SEEDS = range(1, 6)


def results(shares, lost_by_blind=0.0):
    """Return results of families with these shares in each cell, chosen by two criteria."""
    protocol = Protocol.read(ROOT / "conf")
    settings = {"truth": "best", "blind": "best" if not lost_by_blind else "other"}
    chosen, finals = [], []
    for cell, families in shares.items():
        for family, share in families.items():
            row = {"cell": cell, "family": family}
            chosen += [
                {**row, "criterion": criterion, "settings": own, "run": own}
                for criterion, own in settings.items()
            ]
            for own in sorted(set(settings.values())):
                found = share - (lost_by_blind if own == "other" else 0)
                finals += [
                    {**row, "settings": own, "seed": seed, "true_l0": 2.56, FOUND: found + noise}
                    for seed, noise in zip(SEEDS, np.roll(NOISE, len(family)), strict=True)
                ]
    tuning = pd.DataFrame({"family": ["derived", "topk"], "ridge_fvu": [0.1, np.nan]})
    controls = [
        {"cell": cell, "family": name, FOUND: share}
        for cell in shares
        for name, share in (("ica", 0.2), ("random", 0.0))
    ]
    return Results(protocol, tuning, *map(pd.DataFrame, (chosen, finals, controls)))


def said(*arguments, **options):
    return " ".join(findings(results(*arguments, **options)))


BOTH = {"middle": {"derived": 0.9, "topk": 0.6}, "dense": {"derived": 0.3, "topk": 0.7}}


def test_who_leads_is_said_of_each_cell_and_where_the_derived_model_falls_behind():
    text = said(BOTH)
    assert "Chosen by the truth, in middle derived has the best mean, 90.00 %" in text
    assert "Chosen without the truth, in dense TopK has the best mean, 70.00 %" in text
    assert "Derived is significantly worse than TopK (dense)." in text
    assert "Derived is significantly better than TopK (middle)." in text
    assert "Of 2 paired tests in the same cell, settings chosen by the truth, derived is" in text


def test_what_the_blind_choice_loses_is_said():
    assert "Derived finds 10.00 points more on average" in said(BOTH, lost_by_blind=0.1)
    assert "Derived finds 0.00 points more on average" in said(BOTH)


def test_controls_and_what_diverged_are_said():
    text = said(BOTH)
    assert "Of the controls in dense, ICA finds most, 20.0 %" in text
    assert "Settings of the grids that diverged: 1 of TopK." in text
