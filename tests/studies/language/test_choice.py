"""The choice of settings at several L0, and the extension of their grids."""

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from implicit_em_studies.language.choice import beyond, choose
from implicit_em_studies.shared.planning import Setting


def grid(**rows):
    """The runs of settings: FVU, ridge FVU and whether it reaches its L0, at two L0 each."""
    return pd.DataFrame(
        [
            {"family": name[0], "settings": name, "run": f"{name}{at}", "l0": 30.0}
            | dict(zip(("fvu", "ridge_fvu", "l0_reached"), run, strict=True))
            for name, runs in rows.items()
            for at, run in enumerate(runs)
        ]
    )


def test_the_setting_of_the_least_mean_log_fvu_by_the_own_decoder_is_chosen():
    tuning = grid(
        a1=[(0.10, 0.01, True), (0.09, 0.01, True)],
        a2=[(0.20, 0.01, True), (0.04, 0.01, True)],  # the mean is more, that of logarithms less
        a3=[(0.01, 0.01, True), (np.nan, np.nan, False)],  # it diverged once
        b1=[(np.nan, 0.3, True), (np.nan, 0.2, True)],  # without a decoder of its own
    )
    chosen = choose(tuning).set_index("family")
    assert dict(chosen["run"]) == {"a": "a20", "b": "b10"}
    assert chosen.loc["a", "fvu"] == pytest.approx(np.sqrt(0.20 * 0.04))


def test_a_setting_that_misses_an_l0_is_chosen_only_where_all_do():
    tuning = grid(
        a1=[(0.1, 0.1, True), (0.1, 0.1, False)],
        a2=[(0.2, 0.2, True), (0.2, 0.2, True)],
        b1=[(0.1, 0.1, False), (0.1, 0.1, True)],
        b2=[(0.2, 0.2, None), (0.2, 0.2, None)],
    )
    chosen = choose(tuning).set_index("family")
    assert dict(chosen["settings"]) == {"a": "a2", "b": "b1"}
    assert dict(chosen["reached"]) == {"a": True, "b": False}


def setting(rate, weight, start="random", family="a"):
    axes = {"lr.value": rate, "loss.auxk.weight": weight, "start": start}
    cfg = {"lr": {"value": float(rate)}, "loss": {"auxk": {"weight": float(weight)}}}
    return Setting(family, axes, OmegaConf.create(cfg))


def test_one_value_beyond_each_end_keeps_the_ratio_and_the_other_values():
    grid = [setting(rate, weight) for rate in ("1e-3", "2e-3", "4e-3") for weight in ("0.1", "0.5")]
    grid.append(setting("9", "9", family="b"))
    upper, lower = beyond(grid, setting("4e-3", "0.1"))
    assert (upper.cfg.lr.value, upper.cfg.loss.auxk.weight) == (0.008, 0.1)
    assert (lower.cfg.lr.value, lower.cfg.loss.auxk.weight) == (0.004, 0.02)
    assert lower.axes == {"lr.value": "4e-3", "loss.auxk.weight": "0.02", "start": "random"}
    wider = [*grid, upper, lower]
    assert [one.axes for one in beyond(wider, setting("2e-3", "0.1"))] == []
    assert [one.cfg.lr.value for one in beyond(wider, upper)] == [0.016], "it still ends its axis"
    assert beyond(grid, setting("9", "9", family="b")) == [], "of one value, there is no ratio"
