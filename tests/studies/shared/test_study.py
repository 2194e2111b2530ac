"""The command line that all studies share."""

from pathlib import Path

from implicit_em_studies.shared.study import command


def test_a_command_names_an_option_only_if_it_is_not_the_default():
    default, other = Path("results/paper"), Path("else where")
    assert command("compare", ["mnist"], directory=(default, default)) == (
        "implicit-em compare mnist"
    )
    assert command("compare", [], directory=(other, default)) == (
        "implicit-em compare --directory 'else where'"
    )
