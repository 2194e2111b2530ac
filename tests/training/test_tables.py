"""Tables show what says something of a run's family."""

import numpy as np
import pandas as pd
import pytest
import torch

import implicit_em
from implicit_em.metrics.reconstruction import fvu
from implicit_em.sweeps.summary import columns_of, read_jobs
from implicit_em.training.results import (
    IN_SUMMARY,
    IN_TABLE,
    KEYS,
    LEADING,
    RESPONSIBILITIES,
    in_table,
)

PAPER = {"units": 64, "inputs": 784, "responsibilities": True, "site": None}
ABSOLUTE = {"dead_units", "density"}
"""Keys of metrics with the paper's absolute thresholds."""


@pytest.mark.parametrize("metrics", [{}, PAPER])
def test_the_papers_tables_stay(metrics):
    assert in_table(metrics) == list(IN_TABLE)
    assert in_table(metrics, of_sweep=True) == list(IN_SUMMARY)
    assert IN_TABLE[:5] == ("dead_units", "silent_units", "redundancy", *RESPONSIBILITIES)


@pytest.mark.parametrize(("of_sweep", "keys"), [(False, IN_TABLE), (True, IN_SUMMARY)])
def test_a_narrow_model_without_a_softmax_over_units_has_no_responsibilities(of_sweep, keys):
    shown = in_table(PAPER | {"responsibilities": False}, of_sweep)
    assert shown == [key for key in keys if key not in RESPONSIBILITIES]


@pytest.mark.parametrize("wide", [{"units": 785}, {"site": "resid.3"}])
@pytest.mark.parametrize("by_em", [True, False])
@pytest.mark.parametrize("of_sweep", [True, False])
def test_wide_layers_and_language_models_have_tables_of_their_own(wide, by_em, of_sweep):
    keys = in_table(PAPER | wide | {"responsibilities": by_em}, of_sweep)
    assert keys[:5] == ["l0", "fvu", "ridge_fvu", "inactive_units", "silent_units"]
    assert not ABSOLUTE & set(keys)
    assert ("responsibility_entropy" in keys) == by_em
    assert set(keys) <= {*KEYS, *in_table({})}


def frame(*rows):
    return pd.DataFrame([{"status": "completed", **row} for row in rows])


def test_a_sweep_over_families_shows_what_each_of_them_asks_for():
    numbers = dict.fromkeys((*IN_SUMMARY, *LEADING), 1.0)
    wide = PAPER | {"units": 785, "responsibilities": False}
    failed = {"status": "failed"} | dict.fromkeys(PAPER)
    shown = columns_of(frame(numbers | wide, failed))
    assert shown[:5] == list(LEADING)
    assert not {*ABSOLUTE, "responsibility_entropy"} & set(shown)
    both = columns_of(frame(numbers | wide, numbers | PAPER))
    assert both[:5] == list(LEADING)
    assert {*ABSOLUTE, "responsibility_entropy"} < set(both)
    assert columns_of(frame(numbers | PAPER)) == list(IN_SUMMARY)


def test_a_sweep_shows_of_evaluations_what_it_does_not_have():
    evaluated = {
        "evaluation.own.density": 1.0,
        "evaluation.own-inside.density": 1.0,
        "evaluation.own-inside.kl_nats": 1.0,
        "evaluation.kmnist-1.density": 1.0,
        "evaluation.kmnist-1.l0": 1.0,
        "evaluation.gone-2.density": None,
    }
    run = dict.fromkeys(KEYS) | {"density": 1.0, **PAPER}
    shown = columns_of(frame({**run, "status": "completed", **evaluated}))
    assert shown == ["density", "evaluation.own-inside.kl_nats", "evaluation.kmnist-1.density"]


def test_a_sweep_of_wide_layers(sweep, small_mnist, capfd):
    wide = ["model=topk", "model.hidden=80", "data.normalize=standard", "probe=none"]
    code, directory = sweep(*wide, "model.l0=10,2")
    assert code == 0
    out = capfd.readouterr().out
    jobs = read_jobs(directory)
    assert list(jobs["model.l0"]) == [10, 2], "in the order that was typed"
    table = (directory / "summary.md").read_text()
    assert table.split("\n")[2].split()[1:12:2] == ["job", "n", *LEADING[:4]]
    assert "inactive units" in out
    assert "dead units" not in out
    row = jobs.iloc[0]
    assert (row["units"], row["inputs"], row["responsibilities"]) == (80, 64, False)
    raw = (small_mnist / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    x = torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(-1, 64) / 255).float()
    model = implicit_em.load(directory / row["directory"])
    with torch.no_grad():
        reconstruction, energies = model.reconstruct(x), model.encode(x)
    assert row["fvu"] == pytest.approx(fvu(x.numpy(), reconstruction.numpy()), rel=1e-4)
    assert row["inactive_units"] == (energies <= 0).all(0).sum() > 0
