"""A W&B server that is down, slow, refusing or disappearing: no run stops, and none waits long."""

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import time

import psutil
import pytest
import wandb
from helpers.paths import ROOT
from helpers.ports import free_ports
from helpers.results import metrics_of
from helpers.waiting import within
from helpers.wandb_server import WANDB, inspect, records

from implicit_em.base.errors import ConfigError
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec
from implicit_em.training.tracking import WANDB as TARGET
from implicit_em.training.tracking import (
    PatientWandbLogger,
    finish_logger,
    log_again,
    start_logger,
    wandb_mode,
)

TIMEOUT = 2.0
SHORT = 1.0
"""For a server that takes nothing, where nothing is to be done in time."""
OWN = 15.0
"""Seconds beside, on a busy machine; on a free one wandb ends and starts its service in 3."""
LONG = 60.0


def slow(fault):
    return pytest.param(fault, marks=pytest.mark.slow)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "implicit_em.training.tracking")
    own = "implicit_em.training.tracking"
    return lambda: [r.getMessage() for r in caplog.records if r.name == own]


def start(directory, **spec):
    spec = {"_target_": TARGET, "project": "p", "timeout": TIMEOUT, **spec}
    return start_logger(spec, directory, {"seed": 1}, None, [])


def id_of(directory):
    return (directory / "wandb" / "run_id").read_text()


def log(logger, *epochs):
    for epoch in epochs:
        logger.log_metrics({"train/loss": 10.0 - epoch, "epoch": epoch})


def epochs_in(file):
    rows = [json.dumps(record) for record in records(file, "history")]
    return [int(match[1]) for row in rows if (match := re.search(r'"epoch":\s*"?(\d+)', row))]


def sync(line, directory):
    """Run the command that a line names, as it stands there."""
    name, *arguments = shlex.split(line.rpartition(": ")[2])
    assert name == "wandb"
    subprocess.run([str(WANDB), *arguments], check=True, capture_output=True, cwd=directory)


@pytest.mark.parametrize("fault", ["down", slow("silent"), 401, slow(403), slow(500), slow(0.7)])
@pytest.mark.slow
def test_a_server_that_does_not_take_a_run_delays_one_of_a_process(
    fault, server, lines, tmp_path, monkeypatch
):
    if fault == "down":
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    else:
        server.fault = fault
    first, second = tmp_path / "first", tmp_path / "second"
    with within(SHORT + OWN):
        loggers = [start(first, timeout=SHORT)]
    with within(OWN):
        loggers.append(start(second, timeout=LONG))
        for logger in loggers:
            log(logger, 0, 1)
            logger.finish()
    said = lines()
    assert len(said) == 2
    for line, directory in zip(said, (first, second), strict=True):
        (file,) = directory.glob("wandb/offline-run-*/*.wandb")
        assert line.startswith("W&B offline (going online failed: ")
        assert line.endswith(f"; to upload: wandb sync {file.parent}")
        assert file.stem == f"run-{id_of(directory)}"
    assert json.loads(inspect(file, "--summary"))["summary"]["epoch"] == 1
    assert server.asked.count("RunResumeStatus") <= (2 if fault == 500 else 1)


@pytest.mark.parametrize("fault", ["gone", slow("silent"), slow(500)])
@pytest.mark.slow
def test_a_server_that_disappears_delays_the_end_of_one_run_of_a_process(
    fault, server, lines, tmp_path
):
    loggers = [start(tmp_path / "first"), start(tmp_path / "second", timeout=LONG)]
    log(loggers[0], 0)
    server.fault = fault
    with within(OWN):
        log(loggers[0], *range(1, 100))
    with within(TIMEOUT + OWN):
        loggers[0].finish()
    with within(OWN):
        loggers[1].finish()
        start(tmp_path / "third", timeout=LONG).finish()
    assert [line.partition("wandb sync")[0] for line in lines()[2:]] == [
        "W&B: not everything was sent within 2 s; to upload the rest: ",
        "W&B: not everything was sent within 2 s; to upload the rest: ",
        "W&B offline (not everything was sent within 2 s); to upload: ",
    ]
    (file,) = tmp_path.glob("first/wandb/run-*/*.wandb")
    assert epochs_in(file) == list(range(100))


@pytest.mark.slow
def test_what_was_not_sent_is_sent_by_the_command_of_the_line(server, lines, tmp_path):
    begun, late = tmp_path / "begun", tmp_path / "late"
    loggers = [start(begun)]
    log(loggers[0], 0)
    server.fault = "silent"
    loggers.append(start(late, timeout=SHORT))
    for logger in loggers:
        log(logger, 1, 2)
        logger.finish()
    wandb.teardown()  # as at the end of the process
    server.fault = None
    server.rows.clear()
    _, of_late, of_begun = lines()
    assert f"--id {id_of(late)} " in of_late, "wandb's service keeps the id of what never started"
    sync(of_begun, tmp_path)
    sync(of_late, tmp_path)
    epochs = {key: [row["epoch"] for row in rows] for key, rows in server.rows.items()}
    assert epochs == {id_of(begun): [0, 1, 2], id_of(late): [1, 2]}


@pytest.mark.slow
def test_a_run_whose_server_disappears_has_the_results_of_one_without(
    server, composed, small, lines, tmp_path, monkeypatch
):
    undisturbed = train(composed(*small), tmp_path / "undisturbed")
    log_metrics = PatientWandbLogger.log_metrics

    def disappear(self, metrics, step=None):
        server.fault = "silent"
        log_metrics(self, metrics, step)

    monkeypatch.setattr(PatientWandbLogger, "log_metrics", disappear)
    cfg = composed(*small, "logger=wandb", f"logger.timeout={TIMEOUT}")
    with within(2 * undisturbed["train_seconds"] + TIMEOUT + 5):
        metrics = train(cfg, tmp_path / "run")
    assert metrics["status"] == "completed"
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "undisturbed")
    assert lines()[-1].startswith("W&B: not everything was sent within 2 s")


@pytest.mark.slow
def test_the_jobs_of_a_stacked_sweep_try_a_dead_server_once(
    server, command_line, small, tmp_path, capfd
):
    server.fault = "silent"
    overrides = [*small, "logger=wandb", f"logger.timeout={SHORT}", "probe=none"]
    sweep = [f"hydra.sweep.dir={tmp_path / 'sweep'}", "hydra/launcher=stacked"]
    assert command_line("-m", "seed=range(1,25)", *overrides, *sweep) == 0
    assert server.asked == ["RunResumeStatus"]
    assert capfd.readouterr().out.count("; to upload: wandb sync ") == 24


def test_a_service_that_dies_costs_a_run_its_log_alone(server, lines, tmp_path):
    logger = start(tmp_path / "first")
    for child in psutil.Process().children(recursive=True):
        if child.name() == "wandb-core":  # those of earlier runs may not have ended yet
            child.kill()
            child.wait()
    metrics = {"status": "interrupted", "final_loss": 1.0}
    with within(OWN):
        log(logger, 0, 1)
        finish_logger(logger, metrics, tmp_path / "no-features")
    dropped, unfinished = lines()[1:]
    assert "left out" in dropped
    assert "wandb sync --include-online" in unfinished
    second = start(tmp_path / "second")
    log(second, 0)
    second.finish()
    assert lines()[-1].startswith("W&B online"), "by a new service"
    assert [row["epoch"] for row in server.rows[id_of(tmp_path / "second")]] == [0]


def test_nobody_is_asked_and_no_server_is_called_to_find_the_mode(server):
    assert wandb_mode() == ("online", "logged in")
    assert server.asked == []


def test_without_a_key_online_is_offline(server, lines, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    start(tmp_path / "run", mode="online").finish()
    (line,) = lines()
    assert line.startswith("W&B offline (going online failed: No API key configured")
    assert PatientWandbLogger.lost is None
    assert server.asked == []


def test_a_setting_that_wandb_refuses_is_named(server, tmp_path):
    with pytest.raises(ConfigError, match=r"logger: .*project"):
        start(tmp_path / "run", project="a/b", mode="offline")


@pytest.mark.parametrize("value", ["0", "-1", "inf", "soon"])
def test_a_timeout_is_a_number_of_seconds(value, composed):
    with pytest.raises(ConfigError, match=rf"logger\.timeout={value}"):
        RunSpec.of(composed(f"logger.timeout={value}"))


ROWS = [{"epoch": n, "train/loss": 9.0 - n, "monitor/density": None} for n in range(3)]


def test_an_offline_run_that_goes_on_has_the_same_id_and_all_epochs(server, tmp_path):
    for done in (0, 2):
        logger = start(tmp_path / "run", mode="offline")
        log_again(logger, ROWS[:done], "epoch")
        log(logger, done)
        logger.finish()
    files = sorted(tmp_path.glob("run/wandb/offline-run-*/*.wandb"), key=os.path.getmtime)
    assert [file.stem for file in files] == [f"run-{id_of(tmp_path / 'run')}"] * 2
    assert [epochs_in(file) for file in files] == [[0], [0, 1, 2]]
    assert server.asked == []


def test_an_online_run_that_goes_on_sends_what_the_server_lacks(server, tmp_path):
    logger = start(tmp_path / "run")
    log(logger, 0, 1)
    logger.finish()
    run_id = id_of(tmp_path / "run")
    assert [row["epoch"] for row in server.rows[run_id]] == [0, 1]
    logger = start(tmp_path / "run")
    assert logger.experiment.resumed
    log_again(logger, ROWS, "epoch")
    log(logger, 3)
    logger.finish()
    rows = server.rows[run_id]
    assert [row["epoch"] for row in rows] == [0, 1, 1, 2, 3], "1 might have been there in part"
    assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4]
    assert len(server.rows) == 1


PROCESS = """
import logging, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers.wandb_server import serving
from implicit_em.training.tracking import WANDB, start_logger
logging.basicConfig(level=logging.INFO, format="%(message)s")
with serving() as server:
    os.environ |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}
    spec = {"_target_": WANDB, "project": "p", "timeout": float(sys.argv[3])}
    loggers = [start_logger(spec, Path(sys.argv[2], str(k)), {}, None, []) for k in range(6)]
    server.fault = "silent"
    print("finishing", time.time(), flush=True)
    for logger in loggers:
        logger.finish()
    print("finished", time.time(), flush=True)
"""


@pytest.mark.slow
def test_a_process_ends_within_twice_the_timeout(tmp_path):
    command = [sys.executable, "-c", PROCESS, str(ROOT / "tests"), str(tmp_path), "2"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    ended = time.time()
    times = dict(re.findall(r"^(finish\w+) ([\d.]+)$", shown.stdout, re.MULTILINE))
    assert float(times["finished"]) - float(times["finishing"]) < 2 + 0.5
    assert ended - float(times["finishing"]) < 2 * 2 + OWN
    assert shown.stderr.count("wandb sync --include-online") == 6
    assert "Traceback" not in shown.stderr
