"""``python -m implicit_em.compare``: the families tuned, and compared at the same density."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from implicit_em.compare.comparison import COMPARISON, compare
from implicit_em.errors import ConfigError, RunError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison that the command line asks for; exit codes as those of ``train.py``."""
    parser = argparse.ArgumentParser(
        prog="python -m implicit_em.compare",
        description="Tune all families, train what was chosen over seeds, compare at matched "
        "density.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="PART | KEY=VALUE",
        help="data sets and parts of conf/compare.yaml (all if none is named), keys of that file, "
        "e.g. seeds=[1,2] or finals.trainer.max_epochs=2, and settings of all runs; any of these "
        "makes it a trial",
    )
    parser.add_argument("--directory", type=Path, default=COMPARISON, help=f"default: {COMPARISON}")
    parser.add_argument("--workers", type=int, help="at a time; default: one a core")
    parser.add_argument("--conf", type=Path, default=Path("conf"), help="default: ./conf")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        compare(
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


if __name__ == "__main__":
    sys.exit(main())
