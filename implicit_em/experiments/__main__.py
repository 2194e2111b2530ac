"""``python -m implicit_em.experiments``: reproduce the paper, or some of its experiments."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from implicit_em.errors import ConfigError, RunError
from implicit_em.experiments.reproduce import PAPER, reproduce
from implicit_em.experiments.study import EXPERIMENTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study that the command line asks for; exit codes as those of ``train.py``."""
    parser = argparse.ArgumentParser(
        prog="python -m implicit_em.experiments",
        description="Reproduce the paper: runs, tables, figures, verdicts and a report.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="EXPERIMENT | KEY=VALUE",
        help=f"experiments ({', '.join(EXPERIMENTS)}; all if none is named) and settings for all "
        "runs, e.g. trainer.max_epochs=2, which make it a trial",
    )
    parser.add_argument("--directory", type=Path, default=PAPER, help=f"default: {PAPER}")
    parser.add_argument("--workers", type=int, help="stacks at a time; default: one a core")
    parser.add_argument("--conf", type=Path, default=Path("conf"), help="default: ./conf")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        reproduce(
            options.directory,
            [word for word in options.words if "=" not in word] or list(EXPERIMENTS),
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


if __name__ == "__main__":
    sys.exit(main())
