"""The command line of a study: what to run, settings that change it, and where it goes."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from implicit_em.base.errors import ConfigError, RunError


def run_study(
    study: Callable[..., Any],
    directory: Path,
    arguments: Sequence[str] | None,
    metavar: str,
    words: str,
    **program: str,
) -> int:
    """Run what the command line asks for; gives exit codes as those of ``train.py``.

    Args:
        study: called with the directory, the words that name parts, those of ``KEY=VALUE``, the
            number of workers or ``None``, and the folder of configuration files.
        directory: where it goes, unless another is named.
        arguments: of the command line; those of the process where they are ``None``.
        metavar: of the words.
        words: the help on them.
        program: ``prog`` and ``description`` of the parser.

    """
    parser = argparse.ArgumentParser(**program)  # type: ignore[arg-type]
    parser.add_argument("words", nargs="*", metavar=metavar, help=words)
    parser.add_argument("--directory", type=Path, default=directory, help=f"default: {directory}")
    parser.add_argument("--workers", type=int, help="stacks at a time; default: one a core")
    parser.add_argument("--conf", type=Path, default=Path("conf"), help="default: ./conf")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        study(
            options.directory,
            [word for word in options.words if "=" not in word],
            [word for word in options.words if "=" in word],
            options.workers,
            options.conf,
        )
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0
