import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from implicit_em.training.run import train
from implicit_em_studies.paper.trajectory import probe_epochs, row_angle


@pytest.fixture
def runs(composed, small, tmp_path):
    """The same run without and with the callback."""
    for name in ("none", "trajectory"):
        train(composed(*small, f"callbacks={name}", "trainer.max_epochs=5"), tmp_path / name)
    return tmp_path / "none", tmp_path / "trajectory"


def test_the_trajectory_is_part_of_the_history(runs):
    history = pd.read_csv(runs[1] / "history.csv").filter(like="trajectory/")
    history.columns = history.columns.str.removeprefix("trajectory/")
    for name in ("row_angle", "correlation_change", "log_variance"):
        assert np.isfinite(history[name]).all(), name
    assert history["row_angle"].between(0, 180).all()
    assert (history["identity_correlation"] > 0.99999).all()
    assert (history["identity_error"] < 1e-6).all()
    assert history["probe_accuracy"].notna().tolist() == [True, True, True, True, True]


def test_following_a_run_does_not_change_it(runs):
    alone, followed = (load_file(run / "model.safetensors") for run in runs)
    assert all(torch.equal(alone[key], followed[key]) for key in alone)


def test_a_quarter_turn_is_ninety_degrees_whatever_the_lengths():
    before, after = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 5.0], [-1.0, 0.0]])
    assert float(row_angle(before, after)) == pytest.approx(90)
    assert float(row_angle(before, 7 * before)) == 0
    assert float(row_angle(before, -before)) == pytest.approx(180)


@pytest.mark.parametrize("angle", [1e-6, 1e-3, 1.0])
def test_small_angles_are_not_lost_to_rounding(angle):
    radians = torch.tensor(angle, dtype=torch.float64).deg2rad()
    turned = torch.stack([radians.cos(), radians.sin()])[None]
    assert float(row_angle(torch.tensor([[1.0, 0.0]]), turned)) == pytest.approx(angle, rel=1e-6)


def test_probes_are_spread_over_the_logarithm_of_time():
    assert probe_epochs(100) == [1, 2, 3, 4, 6, 8, 12, 16, 23, 32, 46, 64, 91]
