"""The choice of a setting of each family."""

import numpy as np
import pandas as pd

from implicit_em_studies.shared.tuned import choose


def test_each_criterion_takes_each_familys_best_setting_and_none_that_diverged():
    tuning = pd.DataFrame(
        {
            "family": ["a", "a", "a", "b", "b"],
            "settings": list("pqrst"),
            "run": list("12345"),
            "pursuit_l0": [3.0, 1.0, np.nan, 5.0, 4.0],
            "found": [0.9, 0.2, np.nan, 0.1, 0.7],
        }
    )
    chosen = choose(tuning, {"blind": "-pursuit_l0", "truth": "found"})
    by = {name: list(rows["settings"]) for name, rows in chosen.groupby("criterion")}
    assert by == {"blind": ["q", "t"], "truth": ["p", "t"]}
