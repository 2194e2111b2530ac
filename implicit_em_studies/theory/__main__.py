"""``implicit-em theory``: answer the theory's open questions, or some of them."""

import sys
from collections.abc import Sequence

from implicit_em_studies.shared.command_line import run_study
from implicit_em_studies.theory.study import STUDY, THEORY, study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study that the command line asks for; return the same exit codes as ``train.py``."""
    return run_study(
        study,
        THEORY,
        arguments,
        "EXPERIMENT | KEY=VALUE",
        f"experiments ({', '.join(STUDY.experiments)}; all if none is named) and settings for all "
        "runs, e.g. trainer.max_epochs=2, which make it a trial",
        {"quick": "a trial of few epochs and one seed, into a directory of its own"},
        prog="implicit-em theory",
        description="Answer the theory's open questions: runs, tables, figures and verdicts.",
    )


if __name__ == "__main__":
    sys.exit(main())
