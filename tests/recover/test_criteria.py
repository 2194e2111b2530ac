"""How a setting is chosen, without the truth and by it."""

import numpy as np
import pandas as pd
import pytest

from implicit_em.recover.criteria import blind_score, choose


def test_the_blind_score_is_the_description_length_per_sample():
    assert blind_score(64, 0.1, 3.0, 256) == pytest.approx(32 * np.log(0.1) + 3 * np.log(256))
    assert blind_score([2, 4], [1.0, 1.0], [1.0, 2.0], 1).tolist() == [0, 0], "log 1 is 0"


def test_a_better_decoder_or_fewer_active_units_are_better():
    best = blind_score(64, 0.1, 3.0, 256)
    assert best < blind_score(64, 0.2, 3.0, 256)
    assert best < blind_score(64, 0.1, 4.0, 256)
    assert best < blind_score(64, 0.1, 3.0, 512)


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
