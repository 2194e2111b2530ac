"""``implicit-em reproduce``: reproduce the paper, or some of its experiments."""

import sys
from collections.abc import Sequence

from implicit_em_studies.paper.reproduce import PAPER, STUDY, reproduce
from implicit_em_studies.shared.command_line import run_study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study that the command line asks for; return the same exit codes as ``train.py``."""
    return run_study(
        reproduce,
        PAPER,
        arguments,
        "EXPERIMENT | KEY=VALUE",
        f"experiments ({', '.join(STUDY.experiments)}; all if none is named) and settings for all "
        "runs, e.g. trainer.max_epochs=2, which make it a trial",
        prog="implicit-em reproduce",
        description="Reproduce the paper: runs, tables, figures, verdicts and a report.",
    )


if __name__ == "__main__":
    sys.exit(main())
