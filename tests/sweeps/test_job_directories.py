"""The directories of a sweep's jobs."""

import json
import shutil

import numpy as np
import pytest
from helpers.results import finished
from omegaconf import OmegaConf

from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.sweeps.job_directories import JobDirectories, note_jobs, noted_jobs
from implicit_em.sweeps.summary import read_jobs

A, B = "data.path=/x/a.npy", "data.path=/x/b.npy"
BRIEF = ["-m", "data=tensors", "trainer.max_epochs=1", "model.hidden=3", "hydra.sweep.dir=s"]
BRIEF += ["logger=csv", "picture=false", "probe=none"]


@pytest.fixture
def cfg(composed):
    return composed("logger=csv")


def is_there(sweep, name, cfg, metrics=True):
    """Make the directory of a run in a sweep."""
    (sweep / name / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, sweep / name / ".hydra/config.yaml", resolve=True)
    if metrics:
        content = {"status": "interrupted", "config_fingerprint": config_fingerprint(cfg)}
        (sweep / name / "metrics.json").write_text(json.dumps(content))


def test_a_fixed_value_with_a_slash_is_left_out_and_a_swept_one_is_not(tmp_path, cfg):
    fingerprint = config_fingerprint(cfg)
    fixed = JobDirectories(tmp_path, {"data.path", "lr.value"})
    assert fixed.name_of([A, "seed=1", "lr.value=1"], cfg) == "lr.value=1,seed=1"
    assert fixed.name_of([A, "seed=1", "logger.project=x/y"], cfg) == "seed=1"
    assert fixed.name_of([A], cfg) == fingerprint, "nothing is left"
    assert fixed.name_of([A, "seed=" + 150 * "1"], cfg) == fingerprint
    swept = JobDirectories(tmp_path, {"lr.value"})
    assert swept.name_of([A, "seed=1", "lr.value=1"], cfg) == fingerprint


@pytest.mark.parametrize("metrics", [True, False])
@pytest.mark.parametrize("job", [["seed=1"], [A, "seed=1"], [A]])
def test_a_directory_of_the_fingerprint_is_used_whatever_its_name(tmp_path, cfg, job, metrics):
    is_there(tmp_path, "any name", cfg, metrics)
    (tmp_path / "any name" / "damaged").mkdir()
    (tmp_path / "empty").mkdir()
    other = cfg.copy()
    other.seed = 7
    for fixed in ((), {"data.path"}):
        directories = JobDirectories(tmp_path, fixed)
        assert directories.name_of(job, cfg) == "any name"
        assert directories.name_of(["seed=7"], other) == "seed=7"


def test_a_whole_name_is_that_of_its_job_and_a_shortened_one_may_be_anothers(tmp_path, cfg):
    other = cfg.copy()
    other.seed = 7
    is_there(tmp_path, "seed=1", other)
    directories = JobDirectories(tmp_path, {"data.path"})
    assert directories.name_of(["seed=1"], cfg) == "seed=1", "the run will be refused there"
    assert directories.name_of([A, "seed=1"], cfg) == config_fingerprint(cfg)
    assert directories.name_of([B, "seed=1"], other) == "seed=1"


def test_a_name_stays_when_directories_appear_and_in_other_processes(tmp_path, cfg):
    here = JobDirectories(tmp_path, {"data.path"})
    job = [A, "seed=1"]
    assert here.name_of(job, cfg) == "seed=1"
    note_jobs(tmp_path, {"seed=1": ",".join(job)})
    is_there(tmp_path, "seed=1", cfg)
    is_there(tmp_path, "a", cfg)
    assert here.name_of(job, cfg) == "seed=1"
    assert JobDirectories(tmp_path).name_of(job, cfg) == "seed=1", "a worker knows no fixed keys"


def test_a_setting_that_makes_no_fingerprint_is_left_to_the_check(tmp_path, cfg):
    is_there(tmp_path, "a", cfg)
    wrong = cfg.copy()
    wrong.loss = 3
    assert JobDirectories(tmp_path).name_of(["loss=3"], wrong) == "loss=3"


def test_a_job_that_moves_is_noted_once(tmp_path):
    note_jobs(tmp_path, {"0123456789abcdef": "seed=1", "b": "seed=2"})
    note_jobs(tmp_path, {"seed=3": "seed=3", "seed=1": "seed=1"})
    assert list(noted_jobs(tmp_path)) == ["seed=3", "seed=1", "b"]


def test_jobs_lie_in_folders_if_their_subdir_says_so(command_line, tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((40, 6)))
    typed = [*BRIEF, f"data.path={tmp_path}/a.npy"]
    nested = "hydra.sweep.subdir=s${seed}/${hydra.runtime.choices.model}"
    assert command_line(*typed, "seed=2,1", "model=l1,sae", nested) == 0
    every = ["s2/l1", "s2/sae", "s1/l1", "s1/sae"]
    for _ in range(2):
        jobs = read_jobs(tmp_path / "s")
        assert sorted(jobs["directory"]) == sorted(every)
        assert list(jobs["status"]) == 4 * ["completed"]
        (tmp_path / "s" / "jobs.json").unlink(missing_ok=True)


def test_a_sweep_grows_over_paths_and_keeps_its_directories(command_line, tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((40, 6)))
    path = f"data.path={tmp_path}/a.npy"
    assert command_line(*BRIEF, path, "seed=2,1") == 0
    directory = tmp_path / "s"
    before = finished(directory)
    assert all("seed=" in run.parent.name for run in before)
    np.save(tmp_path / "b.npy", np.random.default_rng(1).random((40, 6)))
    (directory / "jobs.json").unlink()  # the fingerprint alone says which run it is
    assert command_line(*BRIEF, f"{path},{tmp_path}/b.npy", "seed=2,1") == 0
    assert before.items() <= finished(directory).items(), "what is finished is not trained again"
    jobs = read_jobs(directory)
    assert (len(finished(directory)), list(jobs["status"])) == (4, 4 * ["completed"])
    assert list(jobs["seed"]) == [2, 1, 2, 1]
    shutil.rmtree(directory / jobs["directory"][3])
    assert list(read_jobs(directory)["status"]) == [*3 * ["completed"], "not started"]
