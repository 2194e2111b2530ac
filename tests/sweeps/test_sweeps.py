"""A sweep: directories, summary, failures, and the runs alone that it must equal."""

import json
import shutil

import pandas as pd
import pytest
from helpers.lines import one_line
from helpers.results import finished
from omegaconf import OmegaConf

from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.sweeps.__main__ import main
from implicit_em.sweeps.job_directories import note_jobs
from implicit_em.sweeps.summary import group_over_seeds, read_jobs
from implicit_em.training.results import IN_SUMMARY


def test_a_sweep_ends_with_its_summary_which_on_request_says_what_became_of_each_job(sweep, capfd):
    code, directory = sweep("loss=lse,var_tc", "seed=1,2")
    assert code == 0
    jobs = pd.read_csv(directory / "summary.csv")
    assert len(jobs) == 4
    assert set(jobs["status"]) == {"completed"}
    for _, row in jobs.iterrows():
        run = directory / row["directory"]
        metrics = json.loads((run / "metrics.json").read_text())
        assert set(metrics) <= set(jobs.columns)
        assert row["final_loss"] == metrics["final_loss"]
        config = OmegaConf.load(run / ".hydra/config.yaml")
        assert f"seed={config.seed}" in row["job"]
        assert f"seed={config.seed}" in row["directory"].split(",")
    markdown = (directory / "summary.md").read_text()
    assert markdown.count("| loss=") == 2, "grouped over seeds"
    assert "±" in markdown
    out = capfd.readouterr().out
    assert "4 jobs" in out
    assert "mean ± std over seeds" in out

    completed, killed, never, mismatch = sorted(directory.glob("*seed=*"))
    (killed / "metrics.json").unlink()
    shutil.rmtree(never)
    (mismatch / "metrics.json").write_text((completed / "metrics.json").read_text())
    (directory / "summary.csv").unlink()
    assert main([str(directory)]) == 1
    shown = capfd.readouterr().out
    assert "loss=lse,seed=2" in shown
    assert "unfinished" in shown
    for jobs in (read_jobs(directory), pd.read_csv(directory / "summary.csv")):
        statuses = dict(zip(jobs["directory"], jobs["status"], strict=True))
        assert [statuses[path.name] for path in (completed, killed, never, mismatch)] == [
            *("completed", "unfinished", "not started", "mismatch")
        ]
        assert jobs["final_loss"].count() == 1, "another configuration's are not believed"


@pytest.mark.parametrize("launcher", [pytest.param("basic", marks=pytest.mark.slow), "stacked"])
def test_a_value_in_the_middle_of_a_list_trains_the_new_job_alone(sweep, stacks, launcher):
    typed = ["lr.value=1e-3,1e-2", "model.hidden=8", "probe=none", f"hydra/launcher={launcher}"]
    _, directory = sweep(*typed, "seed=1,3")
    before = finished(directory)
    stacks.clear()
    assert sweep(*typed, "seed=1,3")[0] == 0
    assert (finished(directory), stacks) == (before, [])
    assert sweep(*typed, "seed=1,2,3")[0] == 0
    assert before.items() <= finished(directory).items(), "what is finished is not trained again"
    assert (len(finished(directory)), sum(stacks)) == (6, 2 * (launcher == "stacked"))
    for _, job in read_jobs(directory).iterrows():
        config = OmegaConf.load(directory / job["directory"] / ".hydra/config.yaml")
        assert job["seed"] == config.seed
        assert f"lr.value={config.lr.value}" in job["job"]


@pytest.fixture
def grown_old(sweep, small):
    """A sweep whose runs were made when a default was another than today's."""
    _, directory = sweep("seed=1,2")
    for path in directory.glob("*/.hydra/config.yaml"):
        config = OmegaConf.load(path)
        config.optimizer.eps = 1e-7
        OmegaConf.save(config, path)
        metrics = json.loads((path.parents[1] / "metrics.json").read_text())
        metrics["config_fingerprint"] = config_fingerprint(config)
        (path.parents[1] / "metrics.json").write_text(json.dumps(metrics))
    return directory


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("launcher", [pytest.param("basic", marks=pytest.mark.slow), "stacked"])
def test_a_changed_default_is_refused_in_one_line_and_overwritten_on_request(
    sweep, grown_old, capfd, launcher
):
    before = contents(grown_old)
    capfd.readouterr()
    assert sweep("seed=3,2,1", f"hydra/launcher={launcher}")[0] == 2
    error = one_line(capfd)
    assert "holds a run of other settings (optimizer.eps=1e-07 there, 1e-08 here)" in error
    assert "overwrite=true" in error
    assert contents(grown_old) == before
    assert sweep("seed=1,2", "overwrite=true", f"hydra/launcher={launcher}") == (0, grown_old)
    assert list(read_jobs(grown_old)["status"]) == ["completed", "completed"]
    for path in grown_old.glob("*/.hydra/config.yaml"):
        assert OmegaConf.load(path).optimizer.eps == 1e-8


def test_grouping_over_seeds():
    jobs = pd.DataFrame(
        {
            "job": ["loss=a,seed=1", "loss=a,seed=2", "loss=b,seed=1", "loss=b,seed=2"],
            "status": ["completed", "completed", "completed", "failed"],
            "dead_units": [0, 2, 5, None],
            "redundancy": [10.0, None, None, None],
        }
    ).reindex(columns=["job", "status", "dead_units", "redundancy"])
    for column in set(IN_SUMMARY) - set(jobs):
        jobs[column] = None
    grouped = group_over_seeds(jobs).set_index("job")
    assert grouped.loc["loss=a", "n"] == "2"
    assert grouped.loc["loss=a", "dead_units"] == "1 ± 1.4"
    assert grouped.loc["loss=a", "redundancy"] == "10 (1 of 2)"
    assert grouped.loc["loss=b", "dead_units"] == "5"
    assert grouped.loc["loss=b", "redundancy"] == "–"


def test_each_setting_that_differs_is_a_column_of_its_own_type(sweep):
    sweep("seed=1", "probe=none")
    _, directory = sweep("loss=var_tc", "lr.value=1e-3,0.01", "seed=2", "probe=none")
    for jobs in (read_jobs(str(directory)), pd.read_csv(directory / "summary.csv")):
        assert list(jobs.columns[:5]) == ["job", "directory", "loss", "lr.value", "seed"]
        rows = jobs.set_index(["seed", "lr.value", "loss"]).index
        assert set(rows) == {(2, 1e-3, "var_tc"), (2, 0.01, "var_tc"), (1, 1e-3, "lse_var_tc")}
        assert jobs["seed"].dtype.kind == "i"
        assert jobs["lr.value"].dtype.kind == "f"
        assert not {"probe", "model.hidden"} & set(jobs), "the same in all jobs"


def test_without_a_job_there_is_no_summary_and_without_a_complete_one_no_table(tmp_path, capfd):
    assert main([str(tmp_path)]) == 2
    assert one_line(capfd) == f"error: {tmp_path}: no sweep directory: it holds no jobs\n"
    note_jobs(tmp_path, {"seed=1": "seed=1", "seed=2": "seed=2"})
    assert main([str(tmp_path)]) == 1
    assert "mean ± std" not in capfd.readouterr().out
    assert (tmp_path / "summary.md").read_text().startswith("No job is complete.\n")
