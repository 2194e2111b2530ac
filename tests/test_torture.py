"""Runs killed with SIGKILL at random moments, also while they save, and gone on with."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from conftest import ROOT
from test_checkpoints import results

pytestmark = pytest.mark.torture

INTERVAL = 64
SETTINGS = {
    "adam": [],
    "momentum": ["optimizer=momentum", "lr=cosine"],
    "sae": ["model=sae", "optimizer=adamw", "lr=warmup_cosine"],
    "sgd": ["optimizer=sgd", "loss=lse_var", "activation=softplus"],
}
KILLS = 20
WHILE_SAVING = 10
"""Kills that are aimed at a checkpoint that is being written; some are too late."""


class Steps(pl.Callback):
    """Writes down how many steps are done, block by block: a killed process cannot say so."""

    takes_blocks = True

    def __init__(self):
        self.file = os.open(os.environ["TORTURE_STEPS"], os.O_RDWR | os.O_CREAT)

    def on_train_batch_end(self, trainer, *_):
        os.pwrite(self.file, trainer.global_step.to_bytes(8, "little"), 0)


def command(directory, settings):
    fixed = [f"checkpoint.steps={INTERVAL}", "model.hidden=512", "trainer.max_epochs=2"]
    fixed += ["probe=none", "logger=csv", "trainer.enable_progress_bar=false"]
    fixed += ["+callbacks.steps={_target_: test_torture.Steps}", f"hydra.run.dir={directory}"]
    return [sys.executable, str(ROOT / "train.py"), *settings, *fixed, f"data.root={ROOT / 'data'}"]


def start(directory, settings):
    environment = {
        **os.environ,
        "TORTURE_STEPS": str(steps_file(directory)),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    return subprocess.Popen(command(directory, settings), env=environment)


def steps_file(directory):
    return directory.with_suffix(".steps")


def steps_done(directory):
    return int.from_bytes(steps_file(directory).read_bytes(), "little")


def saved_steps(path):
    checkpoint = torch.load(path, weights_only=True)
    return checkpoint["global_step"]


def being_written(directory):
    return list((directory / "checkpoints").glob(".*-last.ckpt"))


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.0002)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directories = {}
    for name, settings in SETTINGS.items():
        directories[name] = tmp_path_factory.mktemp("undisturbed") / name
        assert start(directories[name], settings).wait() == 0
    return directories


def kill_and_go_on(directory, settings, rng, while_saving):
    """Return whether it died while it saved, and the steps that are trained again."""
    last = directory / "checkpoints" / "last.ckpt"
    process = start(directory, settings)
    wait_for(last.exists, process)
    if while_saving:
        skip = rng.randrange(8)
        for _ in range(skip):
            wait_for(lambda: not being_written(directory), process)
            wait_for(lambda: being_written(directory), process)
        wait_for(lambda: not being_written(directory), process)
        wait_for(lambda: being_written(directory), process)
    else:
        time.sleep(rng.uniform(0, 3))
    assert process.poll() is None, "the run ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    saving = bool(being_written(directory))
    again = steps_done(directory) - saved_steps(
        last if last.exists() else last.with_stem("previous")
    )
    assert start(directory, settings).wait() == 0
    return saving, again


def test_killed_runs_go_on_to_the_same_bits(undisturbed, tmp_path):
    seed = int(os.environ.get("TORTURE_SEED", time.time_ns() % 2**32))
    print(f"\nTORTURE_SEED={seed}")
    rng = random.Random(seed)
    names = [name for _, name in zip(range(KILLS), sorted(SETTINGS) * KILLS, strict=False)]
    aimed = [number < WHILE_SAVING for number in range(KILLS)]
    rng.shuffle(aimed)
    rows = []
    for number, (name, while_saving) in enumerate(zip(names, aimed, strict=True)):
        directory = tmp_path / str(number)
        saving, again = kill_and_go_on(directory, SETTINGS[name], rng, while_saving)
        equal = results(directory) == results(undisturbed[name])
        rows.append((saving, again, equal))
        print(f"{number + 1:2d} {name:8s} {saving=!s:12} steps trained again: {again:3d} {equal=}")
        shutil.rmtree(directory)
    assert all(equal for _, _, equal in rows)
    assert sum(saving for saving, _, _ in rows) >= 5
    assert all(0 <= again <= INTERVAL for _, again, _ in rows)


def test_the_steps_are_written_down(undisturbed):
    """The measure itself: two epochs of 469 steps."""
    assert {steps_done(path) for path in undisturbed.values()} == {2 * 469}
    assert Path(steps_file(undisturbed["adam"])).stat().st_size == 8
