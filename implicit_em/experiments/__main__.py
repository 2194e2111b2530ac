"""``python -m implicit_em.experiments``: reproduce the paper, or some of its experiments."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from implicit_em.experiments.plan import EXPERIMENTS
from implicit_em.experiments.reproduce import PAPER, reproduce
from implicit_em.studies.command_line import run_study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study that the command line asks for; exit codes as those of ``train.py``."""
    return run_study(
        _some_or_all,
        PAPER,
        arguments,
        "EXPERIMENT | KEY=VALUE",
        f"experiments ({', '.join(EXPERIMENTS)}; all if none is named) and settings for all runs, "
        "e.g. trainer.max_epochs=2, which make it a trial",
        prog="python -m implicit_em.experiments",
        description="Reproduce the paper: runs, tables, figures, verdicts and a report.",
    )


def _some_or_all(directory: Path, experiments: Sequence[str], *rest: Any) -> Path:
    return reproduce(directory, experiments or list(EXPERIMENTS), *rest)


if __name__ == "__main__":
    sys.exit(main())
