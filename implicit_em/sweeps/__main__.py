"""``implicit-em summarise DIR``: summarise a sweep again."""

import sys
from collections.abc import Sequence
from pathlib import Path

from implicit_em.base.arguments import Parser
from implicit_em.sweeps.summary import summarise


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the summary of a sweep again."""
    description = "Summarise the jobs of a sweep directory."
    parser = Parser(prog="implicit-em summarise", description=description)
    parser.add_argument("directory", type=Path, help="the sweep directory")
    return parser.run(arguments, lambda options: summarise(options.directory))


if __name__ == "__main__":
    sys.exit(main())
