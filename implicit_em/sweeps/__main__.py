"""``implicit-em summarise DIR``: summarise a sweep again."""

import sys
from collections.abc import Sequence
from pathlib import Path

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import WriteError
from implicit_em.sweeps.jobs import noted_jobs
from implicit_em.sweeps.summary import summarise


def main(arguments: Sequence[str] | None = None) -> int:
    """Summarise the sweep directory named on the command line; return the exit code."""
    parser = Parser(
        prog="implicit-em summarise", description="Summarise the jobs of a sweep directory."
    )
    parser.add_argument("directory", type=Path, help="the sweep directory")
    directory = parser.parse_args(arguments).directory
    if not directory.is_dir():
        print(f"error: {directory}: no such directory", file=sys.stderr)
        return 2
    if noted_jobs(directory) == {} and not any(directory.glob("*/.hydra")):
        print(f"error: {directory}: no sweep directory: it holds no jobs", file=sys.stderr)
        return 2
    try:
        return 0 if summarise(directory) else 1
    except WriteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
