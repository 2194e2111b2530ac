import numpy as np
import pandas as pd
import pytest

from implicit_em_studies.paper import convergence


def run(optimizer, hidden, epochs=300):
    """A run that obeys the law to the letter."""
    power = convergence.POWER_OF_T[optimizer]
    epoch = np.arange(1, epochs + 1)
    history = pd.DataFrame(
        {
            "epoch": epoch,
            "train/loss": -power * hidden * np.log(epoch),
            "trajectory/log_variance": power * np.log(epoch) - 3,
            "trajectory/row_angle": 90 / epoch,
            "trajectory/correlation_change": 0.1 / epoch,
            "trajectory/probe_accuracy": np.where(epoch % 10 == 0, 0.9 + epoch / 10_000, np.nan),
        }
    )
    return {"optimizer": optimizer, "hidden": hidden, "history": history, "dead_units": 1}


@pytest.fixture
def runs():
    return pd.DataFrame([run(optimizer, k) for optimizer in ("sgd", "adam") for k in (16, 64)])


def test_runs_that_obey_the_law_cross_where_it_says(runs):
    crossed = convergence.crossings(runs).dropna()
    assert (crossed["measured"] - crossed["predicted"]).abs().max() <= 2
    assert len(crossed) == 12


def test_a_run_that_ends_before_it_crosses_has_no_epoch():
    rows = convergence.crossings(pd.DataFrame([run("adam", 64, epochs=100)])).set_index("threshold")
    assert np.isnan(rows.loc[1.0, "measured"])
    assert rows.loc[2.0, "measured"] == pytest.approx(64, abs=2)
    assert (rows["epochs"] == 100).all()


def test_trends_find_exponent_and_slope(runs):
    trends = convergence.trends(runs)
    assert trends["exponent"].tolist() == pytest.approx(trends["exponent_predicted"].tolist())
    assert trends["loss_slope"].tolist() == pytest.approx(trends["loss_slope_predicted"].tolist())


def test_settling_looks_at_the_crossing_and_at_what_follows(runs):
    row = convergence.settling(runs).set_index(["optimizer", "hidden"]).loc[("sgd", 64)]
    assert row["at"] == pytest.approx(64, abs=2)
    assert row["angle_at"] == pytest.approx(90 / row["at"])
    assert row["angle_end"] == pytest.approx(90 / 300)
    assert row["epochs_after"] == 50
    assert row["loss_after"] == pytest.approx(64 * np.log((row["at"] + 50) / row["at"]))
    assert row["probe_at"] == pytest.approx(0.906)
    assert row["probe_end"] == pytest.approx(0.93)


def test_settling_of_a_run_that_never_crosses_looks_at_its_end():
    row = convergence.settling(pd.DataFrame([run("adam", 64, epochs=40)])).iloc[0]
    assert row[["at", "angle_at", "probe_at", "loss_after", "epochs_after"]].isna().all()
    assert row["angle_end"] == pytest.approx(90 / 40)
