"""What is measured of runs of explicit EM: the callback, the starts, the kept numbers."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT, STUDIES_CONF
from torch.testing import assert_close

from implicit_em.data import Block
from implicit_em.training.measurement import energies_of
from implicit_em.training.run import train
from implicit_em_studies.shared.planning import plan_sweeps
from implicit_em_studies.shared.protocol import read_grids
from implicit_em_studies.theory import em_measuring
from implicit_em_studies.theory.em_measuring import (
    INCREMENTAL,
    PACE,
    STEPS,
    agreement_with_labels,
    keep_paces,
    method_of,
    start_of,
)
from implicit_em_studies.theory.mixtures import Fit, exact

CONF = ROOT / "conf"


@pytest.fixture(scope="module")
def runs(small_mnist, tmp_path_factory):
    """A run of exact EM, and one of gradient descent on batches, trained."""
    overrides = [f"data.root={small_mnist}", "trainer.max_epochs=4", "seed=1", "logger=csv"]
    overrides += ["probe=none", "picture=false"]
    directory = tmp_path_factory.mktemp("runs")
    grids = read_grids(STUDIES_CONF / "theory.yaml")
    exact, sgd = ({name: grids[name]} for name in ("explicit_em_exact", "explicit_em_sgd"))
    (exactly,) = plan_sweeps(exact, directory, CONF, overrides)
    overrides = [*overrides, "data.batch_size=100"]
    descent = plan_sweeps(sgd, directory, CONF, overrides)
    chosen = [exactly, next(run for run in descent if run.axes["lr.value"] == "16")]
    for run in chosen:
        train(run.cfg, run.directory)
    return chosen


def test_the_callback_logs_mean_lse_of_fixed_samples(runs):
    for run in runs:
        history = pd.read_csv(run.directory / "history.csv")
        data = run.spec.build_data()
        energies = energies_of(run.model(), data.monitored()[0]).astype(np.float64)
        expected = -np.logaddexp.reduce(-energies, axis=1).mean()
        assert history["likelihood/lse"].notna().all()
        assert history["likelihood/lse"].iloc[-1] == pytest.approx(expected, rel=1e-6)


def test_a_run_of_exact_em_is_the_reference_in_float64(runs):
    run = runs[0]
    data = run.spec.build_data()
    passes = list(exact(data.split("train")[0], start_of(run, data), 4))
    losses = pd.read_csv(run.directory / "history.csv")["train/loss"]
    np.testing.assert_allclose(losses, [value for value, _ in passes], rtol=1e-5)
    assert_close(Fit.of(run.model()).means_KD, passes[-1][1].means_KD, rtol=1e-3, atol=1e-3)


def test_numbers_are_measured_once_and_kept(runs, monkeypatch):
    first = STEPS.of(runs[:1], 1)
    assert first["start"][0]["error"] < 1e-10
    assert len(first["reference"][0]) == 4
    assert len(INCREMENTAL.of(runs[:1], 1)["curve"][0]) == 4
    monkeypatch.setattr(em_measuring, "exact", None)
    monkeypatch.setattr(em_measuring, "incremental", None)
    assert STEPS.of(runs[:1], 1)["reference"][0] == first["reference"][0]


def test_the_seconds_of_a_pass_leave_the_runs_as_they_are(runs, monkeypatch):
    before = [run.model().state_dict() for run in runs]
    sizes = []
    monkeypatch.setattr(
        em_measuring, "Block", lambda x, rows: sizes.append([*map(len, rows)]) or Block(x, rows)
    )
    keep_paces(runs)
    assert sizes == [[600], [100] * 6]  # each as it was trained
    for run, weights in zip(runs, before, strict=True):
        kept = PACE.known(run)
        assert all(seconds > 0 for seconds in kept.values())
        assert ("incremental" in kept) == (method_of(run) == "exact")
        assert all(torch.equal(run.model().state_dict()[key], weights[key]) for key in weights)
    monkeypatch.setattr(em_measuring, "incremental", None)
    keep_paces(runs)  # known already


def test_components_agree_with_the_labels_by_hand():
    components, labels = np.array([0, 0, 0, 1, 1, 2]), np.array([5, 5, 7, 7, 7, 5])
    found = agreement_with_labels(components, labels)
    assert found["purity"] == pytest.approx(5 / 6)
    perfect = agreement_with_labels(labels, labels)
    assert perfect == pytest.approx({"purity": 1.0, "nmi": 1.0})
    assert agreement_with_labels(np.zeros(6, int), labels) == pytest.approx(
        {"purity": 0.5, "nmi": 0.0}
    )
