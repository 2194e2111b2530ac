"""A W&B server that is down, refusing or disappearing ends no run, and nothing logged is lost."""

import json
import logging
import re
import shlex
import subprocess
from contextlib import suppress

import psutil
import pytest
import wandb
from helpers.ports import free_ports
from helpers.waiting import within
from helpers.wandb_server import WANDB, records

from implicit_em.base.errors import ConfigError
from implicit_em.training import tracking
from implicit_em.training.tracking import (
    OFFLINE,
    TolerantWandbLogger,
    finish_logger,
    log_again,
    start_logger,
)
from implicit_em.training.tracking import WANDB as TARGET

OWN = 15.0
"""Seconds that wandb needs to start its service on a busy machine."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Waits for the server are short, at the start by wandb's own variable."""
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    monkeypatch.setattr(tracking, "FINISH_TIMEOUT", 2.0)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "implicit_em.training.tracking")
    own = "implicit_em.training.tracking"
    return lambda: [r.getMessage() for r in caplog.records if r.name == own]


def start(directory, **spec):
    spec = {"_target_": TARGET, "project": "p", **spec}
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


@pytest.mark.parametrize("fault", ["down", 401])
def test_a_server_that_takes_no_run_is_asked_once(fault, server, lines, tmp_path, monkeypatch):
    if fault == "down":
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    else:
        server.fault = fault
    for directory in (tmp_path / "first", tmp_path / "second"):
        with within(1 + OWN):
            logger = start(directory)
            log(logger, 0, 1)
            logger.finish()
        (file,) = directory.glob("wandb/offline-run-*/*.wandb")
        assert lines()[-1].startswith("W&B offline (going online failed: ")
        assert lines()[-1].endswith(f"; to upload: wandb sync {file.parent}")
        assert epochs_in(file) == [0, 1]
    assert server.asked.count("RunResumeStatus") <= 1


@pytest.mark.slow
def test_what_was_not_sent_is_sent_by_the_command_of_the_line(server, lines, tmp_path):
    begun, late = tmp_path / "begun", tmp_path / "late"
    loggers = [start(begun)]
    log(loggers[0], 0)
    server.fault = "silent"
    loggers.append(start(late))
    for logger in loggers:
        log(logger, 1, 2)
        with within(2 + OWN):
            logger.finish()
    wandb.teardown()  # as at the end of the process
    server.fault = None
    server.rows.clear()
    for line in lines()[1:]:
        sync(line, tmp_path)
    epochs = {key: [row["epoch"] for row in rows] for key, rows in server.rows.items()}
    assert epochs == {id_of(begun): [0, 1, 2], f"{id_of(late)}{OFFLINE}": [1, 2]}


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
    assert start(tmp_path / "second") is None
    assert lines()[-1].endswith("; this run is not logged there")
    with suppress(Exception):  # the dead service has nothing to end
        wandb.teardown()


def test_without_a_key_online_is_offline(server, lines, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    start(tmp_path / "run", mode="online").finish()
    (line,) = lines()
    assert line.startswith("W&B offline (going online failed: No API key configured")
    assert TolerantWandbLogger.unreachable is None
    assert server.asked == []


def test_a_setting_that_wandb_refuses_is_named(server, tmp_path):
    with pytest.raises(ConfigError, match=r"logger: .*project"):
        start(tmp_path / "run", project="a/b", mode="offline")


ROWS = [{"epoch": n, "train/loss": 9.0 - n, "monitor/density": None} for n in range(3)]


def test_an_offline_run_that_goes_on_has_the_same_id_and_all_epochs(server, tmp_path):
    for done in (0, 2):
        logger = start(tmp_path / "run", mode="offline")
        log_again(logger, ROWS[:done], "epoch")
        log(logger, done)
        logger.finish()
    files = sorted(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))  # named by their time
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
