"""The command ``implicit-em``, from the checkout and from a wheel."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points, version

import numpy as np
import pytest
from helpers.lines import one_line
from helpers.wheel import install_wheel

from implicit_em.cli import GROUP, main
from implicit_em.sweeps.summary import read_jobs

COMMANDS = {command.name: command for command in entry_points(group=GROUP)}


def test_the_help_names_every_command(capsys):
    assert main(["--help"]) == main([]) == 0
    shown = capsys.readouterr().out
    assert {"train", "harvest", "explore", "reproduce", "compare", "language"} < {*COMMANDS}
    for name, command in COMMANDS.items():
        assert f"  {name} " in shown
        assert command.load().__doc__.partition(".")[0] in shown
    assert shown.index("  train ") < shown.index("  compare "), "the framework's come first"


def test_the_help_imports_no_torch():
    asks = (
        "import sys; from implicit_em.cli import main; main([]); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", asks], check=True, stdout=subprocess.DEVNULL)


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


@pytest.mark.parametrize("name", ["evaluate", "explore", "export", "summarise"])
def test_a_path_that_no_file_can_have_gives_one_line(name, capsys):
    assert main([name, "x" * 300]) in (1, 2)
    assert "name too long" in one_line(capsys)


def test_an_option_may_follow_the_overrides(refused):
    assert refused("seed=1", "-m", "lr.valu=3").startswith("error: lr.valu=3: no such key")


def test_a_package_may_add_a_command(tmp_path, monkeypatch, capsys):
    greet = 'def greet(arguments):\n    """Greet. What follows is not shown."""\n    return 2\n'
    (tmp_path / "my_commands.py").write_text(greet)
    monkeypatch.syspath_prepend(tmp_path)
    found = [
        *COMMANDS.values(),
        EntryPoint("mine", "my_commands:greet", GROUP),
        EntryPoint("theory", "my_commands:greet", GROUP),
        EntryPoint("broken", "my_missing.commands:greet", GROUP),
    ]
    monkeypatch.setattr("implicit_em.cli.entry_points", lambda group: found)
    assert main(["mine", "some", "words"]) == 2
    assert main(["broken"]) == 1
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "\n  mine       Greet\n" in shown
    assert "\n  broken     cannot be loaded: No module named" in shown
    assert "  theory     Answer" in shown, "the project's own stays"


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

    for study in ("recover", "theory"):
        quick = run(study, "--quick", "trainer.max_epoch=1")
        assert quick.returncode == 2
        assert quick.stderr.startswith("error: trainer.max_epoch=1: no such")

    mistyped = run("train", "lr.valu=1")
    assert mistyped.returncode == 2
    assert mistyped.stderr.startswith("error: lr.valu=1: no such key; did you mean lr.value?")
    assert mistyped.stderr.count("\n") == 1
