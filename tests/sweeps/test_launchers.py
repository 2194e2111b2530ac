"""Launchers of other packages: their settings, lost processes, signals, and the jobs they run."""

import os
import pickle
import signal

import pytest
import torch
from helpers import composing
from helpers.results import assert_jobs_equal, finished
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from implicit_em.base import interruption
from implicit_em.base.errors import Interrupted
from implicit_em.config.resolvers import gpu_in_turn
from implicit_em.sweeps.summary import read_jobs

JOBLIB = ["hydra/launcher=joblib_local", "hydra.launcher.n_jobs=2"]
BASES = {
    "joblib_local": ("joblib", "hydra_joblib_launcher"),
    "slurm": ("submitit_slurm", "hydra_submitit_launcher"),
    "slurm_stacked": ("submitit_slurm_stacked", "hydra_submitit_launcher"),
    "ray_local": ("ray", "hydra_ray_launcher"),
}


@pytest.mark.parametrize("name", BASES)
def test_a_launchers_settings_are_those_that_its_package_knows(name):
    pytest.importorskip(f"hydra_plugins.{BASES[name][1]}", reason="the extra is not installed")
    cfg = composing.composed("train", f"hydra/launcher={name}", return_hydra_config=True)
    found = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    node = ConfigStore.instance().load(f"hydra/launcher/{BASES[name][0]}.yaml").node
    assert set(found) == set(node)
    assert found["_target_"] == node._target_ in Plugins.instance().class_name_to_class


@pytest.mark.parametrize("name", BASES)
def test_a_launcher_that_is_not_installed_says_how_to(name, monkeypatch, refused):
    Plugins.instance()
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(launchers, f"{BASES[name][0]}.yaml", raising=False)
    message = f'hydra/launcher={name}: its launcher is not installed; pip install -e ".[cluster]"'
    assert refused("-m", "seed=1,2", f"hydra/launcher={name}") == f"error: {message}\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra/launcher=slurm"], "hydra/launcher=slurm: Slurm's commands"),
        (["hydra/launcher=slurm_stacked"], "hydra/launcher=slurm_stacked: Slurm's commands"),
        ([JOBLIB[0], "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: "),
        ([JOBLIB[0], "hydra.launcher.jobs=2"], "hydra.launcher.jobs=2: no such"),
        ([*JOBLIB, "seed=1,-1"], "seed=-1: "),
    ],
)
def test_what_cannot_be_launched_is_refused_in_one_line(
    overrides, message, refused, small, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    line = refused("-m", *small, *overrides, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert line.startswith(f"error: {message}")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_a_joblib_sweep_that_loses_a_worker_is_gone_on_with_by_any_launcher(
    sweep, signalled, capfd
):
    axes = [*signalled(signal.SIGKILL, seeds="1,2"), "probe=none"]
    code, directory = sweep(*axes, *JOBLIB)
    assert code == 1
    shown = capfd.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("error: joblib: A worker process ")
    assert "SIGKILL" in line
    assert str(directory) in shown.out.splitlines()[-1], "the summary comes last"
    jobs = read_jobs(directory).set_index("job")["status"]
    assert len(jobs) == 2
    assert "unfinished" in jobs[[job for job in jobs.index if "seed=2" in job]].tolist()
    assert set(jobs) <= {"completed", "unfinished", "not started"}
    before = finished(directory)

    code, _ = sweep(*axes)
    assert code == 0
    assert before.items() <= finished(directory).items(), "not trained again"
    (resumed,) = directory.glob("*seed=2*")
    assert "goes on after epoch" in (resumed / "train.log").read_text()
    code, expected = sweep(*axes, directory="basic")
    assert code == 0
    assert len(assert_jobs_equal(directory, expected)) == 2


@pytest.mark.slow
def test_a_ray_sweep_equals_the_basic_launchers(sweep):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="the extra is not installed")
    code, directory = sweep("seed=1,2,3", "hydra/launcher=ray_local")
    assert code == 0
    code, expected = sweep("seed=1,2,3", directory="basic")
    assert code == 0
    assert len(assert_jobs_equal(directory, expected)) == 3


@pytest.mark.parametrize(
    ("visible", "installed", "expected"),
    [(None, 0, ["", ""]), (None, 3, ["0", "1", "2", "0"]), ("4,6", 2, ["4", "6", "4"])],
)
def test_gpus_come_in_turn(visible, installed, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: installed)
    assert [gpu_in_turn(number) for number in range(len(expected))] == expected


def test_an_interruption_comes_back_from_a_worker_as_it_was():
    there = pickle.loads(pickle.dumps(Interrupted(signal.SIGUSR2)))
    assert (there.signal, str(there)) == (signal.SIGUSR2, "interrupted by SIGUSR2")


def test_a_signal_outside_of_a_run_ends_the_process_with_its_code():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as ended, interruption.ending():
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
