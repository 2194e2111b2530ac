"""Runs and workers killed with SIGKILL at random moments, also while saving, and gone on with."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import pytorch_lightning as pl
from helpers.paths import ROOT
from helpers.processes import wait_for
from helpers.results import assert_jobs_equal, finished, results

from implicit_em.sweeps.summary import read_jobs

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
    """Writes down how many steps are done, at the start and block by block: the dead cannot say."""

    takes_blocks = True

    def on_train_start(self, trainer, *_):
        path = steps_file(Path(trainer.default_root_dir))
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.on_train_batch_end(trainer)

    def on_train_batch_end(self, trainer, *_):
        os.write(self.file, b"%d\n" % trainer.global_step)


def start(*settings, interval=INTERVAL, **how):
    fixed = [f"checkpoint.steps={interval}", f"data.root={ROOT / 'data'}"]
    fixed += ["probe=none", "logger=csv", "trainer.enable_progress_bar=false"]
    fixed += ["+callbacks.steps={_target_: test_torture.Steps}"]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *settings, *fixed],
        env={**os.environ, "PYTHONPATH": path},
        **how,
    )


def start_run(directory, settings):
    typed = ["model.hidden=512", "trainer.max_epochs=2", f"hydra.run.dir={directory}"]
    return start(*settings, *typed)


def steps_file(directory):
    return directory.with_name(f"{directory.name}.steps")


def steps_done(directory):
    return [int(line) for line in steps_file(directory).read_text().split()]


def trained_again(directory):
    """Return the steps that were trained again, for each time that training went on."""
    return [before - after for before, after in pairwise(steps_done(directory)) if after <= before]


def being_written(directory):
    return list((directory / "checkpoints").glob(".*-newest.ckpt"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directories = {}
    for name, settings in SETTINGS.items():
        directories[name] = tmp_path_factory.mktemp("undisturbed") / name
        assert start_run(directories[name], settings).wait() == 0
    return directories


def kill_and_go_on(directory, settings, rng, while_saving):
    """Return whether it died while it saved, and the steps that were trained again."""
    last = directory / "checkpoints" / "last.ckpt"
    process = start_run(directory, settings)
    wait_for(last.exists, process)
    if while_saving:
        for _ in range(1 + rng.randrange(8)):
            wait_for(lambda: not being_written(directory), process)
            wait_for(lambda: being_written(directory), process)
    else:
        time.sleep(rng.uniform(0, 3))
    assert process.poll() is None, "the run ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    saving = bool(being_written(directory))
    assert start_run(directory, settings).wait() == 0
    return saving, sum(trained_again(directory))


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
    assert all(again <= INTERVAL for _, again, _ in rows)


def test_a_sweep_of_twelve_jobs_survives_three_killed_workers(tmp_path):
    axes = ["-m", "seed=1,2,3,4", "lr.value=1e-3,1e-2,1e-1", "trainer.max_epochs=3"]
    axes += ["hydra.launcher.n_jobs=2", "hydra/launcher=joblib_local"]
    directory, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    how = {"cwd": tmp_path, "interval": 256}
    said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    for launch in range(4):
        before = finished(directory)
        process = start(*axes, f"hydra.sweep.dir={directory}", **how, **said)
        if launch < 3:
            kill_a_worker(process, directory, len(before) + 2)
        out, _ = process.communicate()
        assert process.returncode == (launch < 3), out
        assert "Traceback" not in out
        assert out.count("error: ") == (launch < 3)
        assert len(read_jobs(directory)) == 12, "the summary lists all"
        assert before.items() <= finished(directory).items(), "what is complete is left alone"
    assert start(*axes, f"hydra.sweep.dir={undisturbed}", **how).wait() == 0
    jobs = assert_jobs_equal(directory, undisturbed)
    assert len(jobs) == 12
    for job in jobs:
        assert steps_done(undisturbed / job)[-1] == steps_done(directory / job)[-1] == 3 * 469
        assert not trained_again(undisturbed / job)
    again = {job: steps for job in jobs if (steps := trained_again(directory / job))}
    print(f"\nsteps trained again: {again}")
    assert 1 <= len(again) <= 3 * 2, "those that two workers had, three times"
    assert max(max(steps) for steps in again.values()) <= how["interval"]


def kill_a_worker(process, directory, jobs):
    """Kill one of joblib's processes, once so many jobs are complete and another has trained."""

    def under_way():
        begun = {path.parents[1] for path in directory.glob("*/checkpoints/last.ckpt")}
        done = {path.parent for path in finished(directory)}
        return len(done) >= jobs and begun - done

    wait_for(under_way, process)
    time.sleep(random.uniform(0, 0.5))
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "LokyProcess" in " ".join(child.cmdline())]
    assert len(workers) == 2
    random.choice(workers).kill()
