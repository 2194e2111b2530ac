"""The command ``implicit-em``, from the checkout and from a wheel."""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version

import numpy as np
import pytest
from helpers.lines import one_line
from helpers.paths import ROOT
from helpers.wheel import install_wheel

from implicit_em.cli import COMMANDS, main
from implicit_em.sweeps.summary import read_jobs

HYDRAS = "implicit_em.cli"
"""Module of the commands whose arguments Hydra reads."""


def test_the_help_names_every_command(capsys):
    assert main(["--help"]) == main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("implicit-em")


def test_a_mistyped_command_gives_one_line(capsys):
    assert main(["trian", "seed=1"]) == 2
    assert one_line(capsys).startswith("error: trian: no such command; did you mean train?")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_an_option_that_does_not_exist_gives_one_line(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit, match="2"):
        main([name, "--confg"])
    assert one_line(capsys).endswith(f"; implicit-em {name} --help explains\n")


def test_an_option_may_follow_the_overrides(refused):
    assert refused("seed=1", "-m", "lr.valu=3").startswith("error: lr.valu=3: no such key")


@pytest.mark.parametrize("name", sorted(n for n, (m, _) in COMMANDS.items() if m != HYDRAS))
def test_a_command_passes_its_arguments_on(name, monkeypatch):
    seen = []
    monkeypatch.setattr(import_module(COMMANDS[name][0]), "main", lambda a: seen.append(a) or 3)
    assert main([name, "some", "words"]) == 3
    assert seen == [["some", "words"]]


def test_the_wheel_declares_the_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["implicit-em"].partition(":")
    assert getattr(import_module(module), function) is main


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return install_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [["stacked"], ["joblib_local", "hydra.launcher.n_jobs=2"]],
    ids=lambda launcher: launcher[0],
)
def test_a_wheel_trains_and_summarises_outside_of_a_checkout(launcher, wheel, tmp_path):
    command, environment = wheel

    def run(*arguments):
        return subprocess.run(
            [command, *arguments],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )

    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(300, 20)).astype("f"))
    own = ["trainer.max_epochs=1", "data=tensors", "data.path=X.npy", "logger=csv"]
    alone = run("train", *own, "hydra.run.dir=run")
    assert alone.returncode == 0, alone.stderr
    assert (tmp_path / "run" / "metrics.json").exists()

    name, *settings = launcher
    sweep = ["-m", f"hydra/launcher={name}", *settings, "hydra.sweep.dir=sweep"]
    several = run("train", *sweep, *own, "loss=lse_var,lse_var_tc", "seed=1,2")
    assert several.returncode == 0, several.stderr
    assert list(read_jobs(tmp_path / "sweep")["status"]) == ["completed"] * 4
    again = run("summarise", "sweep")
    assert again.returncode == 0, again.stderr
    assert "4 jobs" in again.stdout

    mistyped = run("train", "lr.valu=1")
    assert mistyped.returncode == 2
    assert mistyped.stderr.startswith("error: lr.valu=1: no such key; did you mean lr.value?")
    assert mistyped.stderr.count("\n") == 1
