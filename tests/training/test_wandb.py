"""W&B without an account: a run of its own for each job, read back with wandb's own tool."""

import json

import pytest
from helpers.wandb_server import inspect, records
from omegaconf import OmegaConf

from implicit_em.base.errors import ConfigError
from implicit_em.training.tracking import wandb_mode
from implicit_em_studies.paper.study import STUDY


def log_of(run_directory):
    """Return the file of the only offline run in a run directory."""
    (log,) = run_directory.glob("wandb/offline-run-*/*.wandb")
    return log


def group_of(record):
    """Return the run group, which newer and older tools name differently."""
    return record["run"].get("runGroup") or record["run"].get("run_group", "")


@pytest.mark.slow
def test_a_stacked_sweep_and_a_run_alone_are_runs_of_their_own(
    command_line, small, tmp_path, capfd
):
    overrides = [*small, "picture=true", "logger=wandb", "metrics_every=1"]
    sweep = tmp_path / "sweep-7"
    together = ["-m", "seed=1,2,3", "hydra/launcher=stacked", f"hydra.sweep.dir={sweep}"]
    assert command_line(*together, *overrides) == 0
    alone = ["seed=4", "experiment=theorem", f"hydra.run.dir={tmp_path / 'alone'}"]
    assert command_line(*overrides, *alone) == 0
    shown = capfd.readouterr()
    assert shown.out.count("W&B offline (not logged in); to upload: wandb sync ") == 4

    directories = [*(path.parent for path in sweep.glob("*/wandb")), tmp_path / "alone"]
    assert len(directories) == 4
    ids, groups, tags = set(), [], []
    for directory in directories:
        read = json.loads(inspect(log_of(directory), "--summary"))
        config = OmegaConf.load(directory / ".hydra/config.yaml")
        metrics = json.loads((directory / "metrics.json").read_text())
        assert all(read["config"][key] == config[key] for key in ("seed", "model", "loss"))
        assert read["name"] == directory.name
        assert read["exit_code"] == 0
        assert read["summary"]["features"]["_type"].startswith("images")
        for key in ("final_loss", "dead_units", "density", "probe_accuracy", "status"):
            assert read["summary"][key] == metrics[key]
        ids.add(read["run_id"])
        (run,) = records(log_of(directory), "run")
        groups.append(group_of(run))
        tags.append(run["run"]["tags"])
        history = [json.dumps(record) for record in records(log_of(directory), "history")]
        assert sum("train/lse" in record for record in history) == 2
        assert sum("monitor/density" in record for record in history) == 2
    assert len(ids) == 4
    assert groups == ["sweep-7"] * 3 + [""]
    assert tags == [["Encoder"]] * 3 + [["Encoder", "theorem"]]


def test_a_failed_job_ends_as_failed(command_line, small, tmp_path):
    overrides = [*small, "logger=wandb", "lr.value=1e25", f"hydra.run.dir={tmp_path / 'run'}"]
    assert command_line(*overrides) == 1
    read = json.loads(inspect(log_of(tmp_path / "run"), "--summary"))
    assert read["exit_code"] == 1
    assert read["summary"]["status"] == "failed"
    assert "not finite" in read["summary"]["error"]
    log = log_of(tmp_path / "run")
    rows = [record["history"]["item"] for record in records(log, "history")]
    steps = [row for row in rows if "step/samples" in row]
    assert [row["trainer/global_step"] for row in steps][:9] == [*range(1, 10)], (
        "before the failure"
    )
    assert {"step/loss", "step/loss/lse", "step/l0", "step/lr"} <= steps[0].keys()
    metrics = [record["metric"] for record in records(log, "metric")]
    axes = {metric["name"]: metric["step_metric"] for metric in metrics if "name" in metric}
    assert axes.keys() == {key for row in steps for key in row if key.startswith("step/")}
    assert set(axes.values()) == {"trainer/global_step"}


def test_the_mode_is_never_asked_for(monkeypatch):
    assert wandb_mode() == ("offline", "not logged in")
    assert wandb_mode("disabled") == ("disabled", "logger.mode=disabled")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode() == ("offline", "WANDB_MODE=offline")
    assert wandb_mode("online") == ("online", "logger.mode=online")
    monkeypatch.setenv("WANDB_MODE", "perhaps")
    with pytest.raises(ConfigError, match="WANDB_MODE=perhaps"):
        wandb_mode()
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert wandb_mode() == ("online", "logged in")


@pytest.mark.slow
def test_a_study_groups_its_experiments_and_logs_a_summary(small_mnist, tmp_path):
    overrides = [
        f"data.root={small_mnist}",
        "trainer.max_epochs=1",
        "seed=1",
        "logger.mode=offline",
    ]
    STUDY.run(tmp_path, ["ablation"], overrides, workers=2)

    for directory in (tmp_path / "runs" / "ablation").iterdir():
        (run,) = records(log_of(directory), "run")
        assert group_of(run) == "ablation"
        assert '"trial"' in json.dumps(run), "a tag"
    read = json.loads(inspect(log_of(tmp_path), "--summary"))
    assert read["exit_code"] == 0
    assert read["config"]["trial"].startswith("TRIAL")
    assert read["config"]["commit"]
    assert {"tables/table1", "figures/figure2", "figures/figure6"} <= set(read["summary"])
