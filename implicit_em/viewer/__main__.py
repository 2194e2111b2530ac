"""``implicit-em explore RUN ...``: write a page of every feature of finished runs."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError
from implicit_em.base.quiet import quieten
from implicit_em.studies.command_line import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; return the same exit codes as ``train.py``."""
    parser = Parser(
        prog="implicit-em explore",
        description="Write a page of every feature of finished runs, which opens in any browser "
        "without a server. This builds the classes that the runs' configurations name.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    parser.add_argument(
        "--out", type=Path, help="folder of the page, or its file; default: RUN/explore"
    )
    parser.add_argument(
        "--single", action="store_true", help="one file, for at most 1,000 features"
    )
    parser.add_argument(
        "--lm",
        help="folder, GGUF file or hub name of the language model, if it is none of conf/lm; a "
        "causal one shows which tokens a feature promotes",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

    def run() -> None:
        from implicit_em.viewer import explore

        quieten()
        try:
            print(f"Open {explore(options.runs, options.out, options.single, options.lm)}")
        except FileNotFoundError as error:
            raise ConfigError(str(error)) from error

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
