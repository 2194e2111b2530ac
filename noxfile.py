"""Runs the tests with each supported version of Python; ``nox -p 3.13`` chooses one."""

import nox

PYTHONS = ("3.11", "3.12", "3.13")
SCIENCE = ["tests/losses", "tests/models", "tests/metrics", "tests/engine", "tests/config"]

nox.options.reuse_existing_virtualenvs = True


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Install the project and run the tests of the science, or those that are named.

    Words after ``--`` go to pytest in their place: ``nox -- tests`` runs the whole suite.
    """
    session.install(".[dev]")
    session.run("pytest", "-n", "auto", "--dist", "loadfile", *(session.posargs or SCIENCE))
