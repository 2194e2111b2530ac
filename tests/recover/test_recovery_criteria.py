"""How a setting is chosen, without the truth and by it."""

import numpy as np
import pandas as pd
import pytest

from implicit_em.recover.criteria import DISTORTION, activity_nats, blind_score
from implicit_em.studies.choice import choose


def test_activity_is_the_code_length_of_each_unit_by_its_own_frequency():
    active_NK = np.random.default_rng(0).random((200, 6)) < [0.01, 0.1, 0.3, 0.5, 0.7, 0.99]
    shares_K = active_NK.mean(0)
    nats = -np.log(np.where(active_NK, shares_K, 1 - shares_K)).sum(1)
    assert activity_nats(shares_K) == pytest.approx(nats.mean())
    assert activity_nats([0.5] * 3) == pytest.approx(3 * np.log(2)), "a fair coin for each unit"


def test_units_that_are_never_or_always_active_cost_nothing():
    assert activity_nats([0, 0, 1, 1]) == 0
    assert activity_nats([0.2, 0, 1]) == activity_nats([0.2])
    assert 0 < activity_nats([1e-9]) < 1e-7


def test_the_blind_score_is_the_description_length_per_sample():
    choices = -2 * (0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    expected = 32 * np.log(0.1) - 0.5 * np.log(0.05) + choices
    assert blind_score(64, 0.1, 1.0, activity_nats([0.25, 0.75, 0])) == pytest.approx(expected)
    assert blind_score([2, 4], 1.0, 0.0, [1.0, 2.0]).tolist() == [1, 2], "log 1 is 0"


def test_a_residual_below_the_distortion_costs_nothing():
    assert blind_score(64, 0.0, 2.0, 1.0) == blind_score(64, DISTORTION, 2.0, 1.0)
    assert blind_score(64, DISTORTION, 2.0, 1.0) < blind_score(64, 1.01 * DISTORTION, 2.0, 1.0)


def test_a_better_decoder_or_rarer_or_fewer_units_are_better():
    best = blind_score(64, 0.1, 0.03, activity_nats([0.01, 0.02]))
    assert best < blind_score(64, 0.2, 0.03, activity_nats([0.01, 0.02]))
    assert best < blind_score(64, 0.1, 0.03, activity_nats([0.01, 0.03]))
    assert best < blind_score(64, 0.1, 0.04, activity_nats([0.01, 0.02]))


def test_each_criterion_takes_each_familys_best_setting_and_none_that_diverged():
    tuning = pd.DataFrame(
        {
            "family": ["a", "a", "a", "b", "b"],
            "settings": list("pqrst"),
            "run": list("12345"),
            "blind_score": [3.0, 1.0, np.nan, 5.0, 4.0],
            "found": [0.9, 0.2, np.nan, 0.1, 0.7],
        }
    )
    chosen = choose(tuning, {"blind": "-blind_score", "truth": "found"})
    by = {name: list(rows["settings"]) for name, rows in chosen.groupby("criterion")}
    assert by == {"blind": ["q", "t"], "truth": ["p", "t"]}
