"""``implicit-em compare``: the families tuned, and compared at the same density."""

import sys
from collections.abc import Sequence

from implicit_em_studies.comparison.comparison import COMPARISON, compare
from implicit_em_studies.shared.command_line import run_study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that the command line asks for; return the same exit codes as ``train.py``."""
    return run_study(
        compare,
        COMPARISON,
        arguments,
        "PART | KEY=VALUE",
        "data sets and parts of conf/compare.yaml (all if none is named), keys of that file, e.g. "
        "seeds=[1,2] or finals.trainer.max_epochs=2, and settings of all runs; any of these makes "
        "it a trial",
        prog="implicit-em compare",
        description="Tune all families, train what was chosen over seeds, compare at matched "
        "density.",
    )


if __name__ == "__main__":
    sys.exit(main())
