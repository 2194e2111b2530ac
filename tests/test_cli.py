"""The command ``implicit-em``."""

import re
import sys
from importlib.metadata import EntryPoint, entry_points

import pytest
from helpers.lines import one_line

from implicit_em.cli import GROUP, main

COMMANDS = {command.name: command for command in entry_points(group=GROUP)}


def test_the_help_names_every_command(capsys):
    assert main(["--help"]) == main([]) == 0
    shown = capsys.readouterr().out
    assert {"train", "harvest", "explore", "reproduce", "compare", "language"} < {*COMMANDS}
    for name, command in COMMANDS.items():
        assert f"  {name} " in shown
        assert command.load().__doc__.partition(".")[0] in shown
    assert shown.index("  train ") < shown.index("  compare "), "the framework's come first"


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
    shown = re.sub(" +", " ", capsys.readouterr().out)
    assert "\n mine Greet\n" in shown
    assert "\n broken cannot be loaded: No module named" in shown
    assert " theory Answer" in shown, "the project's own stays"
