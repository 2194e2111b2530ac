"""The command line of a study: which parts to run, settings that change it, where results go."""

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from implicit_em.base.arguments import Parser
from implicit_em.config import CONF


def command(study: str, words: Sequence[str], **options: tuple[Path, Path]) -> str:
    """Return the command that runs a study again.

    ``options`` are the value and the default of each path; a path at its default is left out.
    """
    typed = ["implicit-em", study, *words]
    for name, (path, default) in options.items():
        typed += [f"--{name}", str(path)] if path != default else []
    return shlex.join(typed)


def run_study(
    study: Callable[..., Any],
    directory: Path,
    arguments: Sequence[str] | None,
    metavar: str,
    words: str,
    flags: Mapping[str, str] | None = None,
    **program: str,
) -> int:
    """Run what the command line asks for; return the same exit codes as ``train.py``.

    Args:
        study: function of the directory, the names of parts, the ``KEY=VALUE`` settings, the number
            of workers or ``None``, the folder of configuration files, and the flags by name.
        directory: default directory of the results.
        arguments: command line; ``None`` for that of the process.
        words: help on the positional arguments.
        flags: help on each further option, which is on or off.
        program: arguments of the parser.
    """
    parser = Parser(**program)  # type: ignore[arg-type]
    parser.add_argument("words", nargs="*", metavar=metavar, help=words)
    parser.add_argument("--directory", type=Path, default=directory, help=f"default: {directory}")
    parser.add_argument("--workers", type=int, help="stacks at a time; default: one per core")
    add_conf(parser)
    for flag, text in (flags or {}).items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)

    def run(options: argparse.Namespace) -> None:
        names, settings = (
            [word for word in options.words if ("=" in word) is wanted] for wanted in (False, True)
        )
        chosen = {flag: getattr(options, flag) for flag in flags or {}}
        study(options.directory, names, settings, options.workers, options.conf, **chosen)

    return parser.run(arguments, run, "; the same command goes on")


def add_conf(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--conf`` to a parser."""
    text = "folder of configuration files; default: the package's own"
    parser.add_argument("--conf", type=Path, default=CONF, help=text)
