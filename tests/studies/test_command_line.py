"""The command line that all studies share."""

from pathlib import Path

import implicit_em
from implicit_em.studies.command_line import command, default_conf


def test_without_a_folder_of_its_own_a_command_takes_the_packages_configuration(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert default_conf() == Path(implicit_em.__file__).parent / "conf"
    assert (default_conf() / "train.yaml").exists()
    (tmp_path / "conf").mkdir()
    assert default_conf() == Path("conf")


def test_a_command_names_an_option_only_if_it_is_not_the_default():
    default, other = Path("results/paper"), Path("else where")
    assert command("compare", ["mnist"], directory=(default, default)) == (
        "python -m implicit_em.compare mnist"
    )
    assert command("compare", [], directory=(other, default)) == (
        "python -m implicit_em.compare --directory 'else where'"
    )
