"""``implicit-em summarise DIR``: summarise a sweep again."""

import sys
from collections.abc import Sequence
from pathlib import Path

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError
from implicit_em.sweeps.job_directories import noted_jobs
from implicit_em.sweeps.summary import started_jobs, summarise


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the summary of a sweep again."""
    description = "Summarise the jobs of a sweep directory."
    parser = Parser(prog="implicit-em summarise", description=description)
    parser.add_argument("directory", type=Path, help="the sweep directory")
    return parser.run(arguments, lambda options: _summarise(options.directory))


def _summarise(directory: Path) -> bool:
    """Return whether the sweep is complete."""
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such directory")
    if not noted_jobs(directory) and not started_jobs(directory):
        raise ConfigError(f"{directory}: no sweep directory: it holds no jobs")
    return summarise(directory)


if __name__ == "__main__":
    sys.exit(main())
