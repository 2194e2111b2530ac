"""Sweeps on a real Slurm: what times out saves, is requeued, goes on and ends as if undisturbed."""

import os
import re
import subprocess
import sys
from contextlib import ExitStack

import pytest
from helpers import slurm_cluster as cluster
from helpers.paths import ROOT
from helpers.results import assert_jobs_equal

pytestmark = pytest.mark.slurm

LONG = 550
SECONDS_A_BATCH = 0.02
"""Of ten an epoch: 110 s beside training and starting, where Slurm warns after 85 to 115 s.

With a limit of one minute it may warn while a task still starts, when that would be its end.
"""
SWEEPS = {
    "slurm": [f"trainer.max_epochs=2,3,{LONG}", "logger=wandb"],
    "slurm_stacked": [f"trainer.max_epochs={LONG}", "lr.value=1e-3,1e-2", "seed=1,2", "logger=csv"],
}
LAUNCHERS = {
    "slurm": ["hydra.launcher.array_parallelism=2"],
    "slurm_stacked": ["hydra.launcher.max_stack=2", "hydra.launcher.cpus_per_task=1"],
}
LIMITS = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=5"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def start(root, small_mnist):
    """Start a sweep as a process of its own."""
    small = [f"data.root={small_mnist}", "data.batch_size=64", "model.hidden=8"]
    slow = "+callbacks.slow._target_=helpers.slow.Slow"
    paths = [ROOT / "tests", ROOT, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]

    def start(directory, *overrides, **environment):
        arguments = [*small, slow, *overrides, f"hydra.sweep.dir={root / directory}"]
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), "-m", *arguments],
            env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture(scope="module")
def restarts(start, root):
    """Run all sweeps at once, also without Slurm; gives how often Slurm restarted each task."""
    if reason := cluster.missing():
        pytest.skip(reason)
    slow = {"WANDB_API_KEY": "0" * 40, "SECONDS_A_BATCH": str(SECONDS_A_BATCH)}
    with cluster.running(cpus=4) as environment, ExitStack() as stack:
        under_way = {}
        for name, axes in SWEEPS.items():
            launcher = [f"hydra/launcher={name}", *LAUNCHERS[name], *LIMITS]
            under_way[name] = start(name, *axes, *launcher, **environment | slow)
            under_way[f"{name}-alone"] = start(f"{name}-alone", *axes, WANDB_MODE="offline")
        for sweep in under_way.values():
            stack.enter_context(sweep)
            stack.callback(sweep.kill)
        for name, sweep in under_way.items():
            said, _ = sweep.communicate(timeout=600)
            logs = [log.read_text()[-3000:] for log in root.glob(f"{name}/.submitit/*/*_log.*")]
            assert sweep.returncode == 0, "\n".join([said, *logs])
        return {name: _restarts(root / name, environment) for name in SWEEPS}


def _restarts(sweep, environment):
    (array,) = {path.name.partition("_")[0] for path in (sweep / ".submitit").glob("[0-9]*")}
    shown = subprocess.check_output(["scontrol", "show", "job", array], env=environment, text=True)
    tasks = re.findall(r"ArrayTaskId=(\d+).*?Restarts=(\d+)", shown, re.DOTALL)
    return {int(task): int(restarts) for task, restarts in tasks}


def test_a_job_that_times_out_is_requeued_and_ends_as_if_undisturbed(restarts, root):
    assert set(restarts["slurm"]) == {0, 1, 2}
    assert restarts["slurm"][2] >= 1
    names = assert_jobs_equal(root / "slurm", root / "slurm-alone")
    assert len(names) == 3
    (name,) = [name for name in names if f"max_epochs={LONG}" in name]
    log = (root / "slurm" / name / "train.log").read_text()
    assert log.count("SIGUSR2: saving") >= log.count("goes on after epoch") >= 1
    for name in names:
        log = (root / "slurm" / name / "train.log").read_text()
        assert log.count("W&B ") == log.count("W&B offline (WANDB_MODE=offline)") >= 1
        assert list((root / "slurm" / name / "wandb" / "latest-run").glob("run-*.wandb"))


def test_tasks_that_are_stacks_are_requeued_as_a_whole(restarts, root):
    assert set(restarts["slurm_stacked"]) == {0, 1}
    assert min(restarts["slurm_stacked"].values()) >= 1
    names = assert_jobs_equal(root / "slurm_stacked", root / "slurm_stacked-alone")
    assert len(names) == 4
    for name in names:
        assert "goes on after epoch" in (root / "slurm_stacked" / name / "train.log").read_text()
    logs = [log.read_text() for log in (root / "slurm_stacked/.submitit").glob("*/*.out")]
    assert all("2 jobs together:" in log for log in logs)
