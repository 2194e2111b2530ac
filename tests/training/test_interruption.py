"""Signals: a run saves and stops, and the same command goes on to the same bits."""

import itertools
import json
import os
import signal
import threading

import pytest
from helpers.breaking import every_block, never_trains
from helpers.results import results

from implicit_em.base import interruption
from implicit_em.base.errors import Interrupted
from implicit_em.engine.stack import Stack
from implicit_em.sweeps.summary import read_jobs
from implicit_em.training import run as training
from implicit_em.training.run import train

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR2, 140)]


@pytest.fixture
def at_block(monkeypatch):
    """Call a function before the n-th block of this process; gives the steps of each from then."""

    def at_block(number, function):
        steps, place, train_blocks = [], itertools.count(1), Stack.train

        def counting(self, blocks):
            if next(place) == number:  # several threads train
                function()
            losses = train_blocks(self, blocks)
            steps.append(len(losses))
            return losses

        monkeypatch.setattr(Stack, "train", counting)
        return steps

    return at_block


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture
def run_settings(small, monkeypatch):
    every_block(monkeypatch, 3)  # of an epoch's ten batches: four blocks
    return [*small, "trainer.max_epochs=3"]


@pytest.fixture(scope="module")
def undisturbed(composed, small, tmp_path_factory):
    """Results of the run that no signal stops."""
    directory = tmp_path_factory.mktemp("undisturbed")
    train(composed(*small, "trainer.max_epochs=3"), directory)
    return results(directory)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("block", [1, pytest.param(6, marks=pytest.mark.slow), 12])
def test_a_signal_saves_and_the_same_command_goes_on(
    command_line, run_settings, undisturbed, at_block, tmp_path, capfd, number, code, block
):
    before = signal.getsignal(number)
    steps = at_block(block, send(number))
    assert command_line(*run_settings, "hydra.run.dir=again") == code
    assert signal.getsignal(number) is before
    out = capfd.readouterr()
    said = [line for line in (out.out + out.err).splitlines() if number.name in line]
    assert len(said) == 2, "asked to, and done"
    metrics = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert metrics["status"] == "interrupted"
    assert metrics["epochs"] == (block - 1) // 4 + (block == 12)
    assert command_line(*run_settings, "hydra.run.dir=again") == 0
    assert sum(steps) == 3 * 10, "no step is trained twice"
    assert results(tmp_path / "again") == undisturbed


def test_a_signal_while_it_measures_keeps_what_was_trained(
    command_line, run_settings, monkeypatch, tmp_path
):
    evaluate = training.evaluate_module

    def interrupted(*arguments):
        send(signal.SIGTERM)()
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate_module", interrupted)
        assert command_line(*run_settings, "hydra.run.dir=run") == 143
    never_trains(monkeypatch)
    assert command_line(*run_settings, "hydra.run.dir=run") == 0


def test_a_sweep_stops_at_once_and_the_same_command_goes_on(
    command_line, run_settings, at_block, tmp_path, capfd
):
    sweep = ["-m", *run_settings, "seed=1,2,3", "hydra.sweep.dir=sweep"]
    at_block(14, send(signal.SIGTERM))
    assert command_line(*sweep) == 143
    statuses = [path.parent.name for path in sorted(tmp_path.glob("sweep/*/metrics.json"))]
    assert len(statuses) == 2, "the third did not start"
    out = capfd.readouterr().out
    assert "not started" in out
    at_block(0, None)
    assert command_line(*sweep) == 0


def test_a_signal_too_late_for_a_run_stops_the_sweep_all_the_same(
    command_line, run_settings, monkeypatch, tmp_path
):
    monkeypatch.setattr(training, "print_result", lambda *_: send(signal.SIGTERM)())
    assert command_line("-m", *run_settings, "seed=1,2", "hydra.sweep.dir=sweep") == 143
    assert list(read_jobs(tmp_path / "sweep")["status"]) == ["completed", "not started"]


def test_a_stacked_sweep_stops_and_goes_on(
    command_line, composed, run_settings, at_block, tmp_path, capfd
):
    settings = [*run_settings, "model.hidden=8"]
    for seed in (1, 2, 3):
        train(composed(*settings, f"seed={seed}"), tmp_path / f"alone-{seed}")
    sweep = ["-m", *settings, "seed=1,2,3", "hydra.sweep.dir=sweep", "hydra/launcher=stacked"]
    at_block(4, send(signal.SIGINT))
    assert command_line(*sweep) == 130
    assert "SIGINT: saving, then stopping" in capfd.readouterr().out
    for path in tmp_path.glob("sweep/*/metrics.json"):
        assert json.loads(path.read_text())["status"] == "interrupted"
    assert command_line(*sweep) == 0
    for seed in (1, 2, 3):
        (run,) = tmp_path.glob(f"sweep/*seed={seed}*")
        assert results(run) == results(tmp_path / f"alone-{seed}")


def test_ctrl_c_again_stops_at_once(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)

    def press_twice():
        with interruption.listening():
            send(signal.SIGINT)()
            assert interruption.received() is signal.SIGINT
            assert not codes
            send(signal.SIGINT)()

    with pytest.raises(Interrupted):
        press_twice()
    assert codes == [130]


def test_a_second_signal_of_a_cluster_changes_nothing():
    def listen():
        with interruption.listening():
            send(signal.SIGUSR2)()
            send(signal.SIGTERM)()

    with pytest.raises(Interrupted, match="SIGUSR2"):
        listen()
    assert interruption.received() is None


def test_the_handler_that_was_there_takes_over_once_all_is_saved(
    composed, run_settings, at_block, tmp_path, monkeypatch
):
    seen = []

    def requeue(number, frame):
        seen.append(json.loads((tmp_path / "metrics.json").read_text())["status"])

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        at_block(2, send(signal.SIGUSR2))
        with pytest.raises(Interrupted):
            train(composed(*run_settings), tmp_path)
        assert signal.getsignal(signal.SIGUSR2) is requeue
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == ["interrupted"]


def test_a_thread_listens_to_nothing():
    def listen():
        with interruption.listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen = []
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
