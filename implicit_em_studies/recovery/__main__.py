"""``implicit-em recover``: the families tuned on data whose features are known."""

import sys
from collections.abc import Sequence

from implicit_em_studies.recovery.study import RECOVERY, recover
from implicit_em_studies.shared.command_line import run_study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that the command line asks for; return the same exit codes as ``train.py``."""
    return run_study(
        recover,
        RECOVERY,
        arguments,
        "CELL | KEY=VALUE",
        "cells of conf/recover.yaml or groups of them (all if none is named), keys of that file, "
        "e.g. seeds=[1,2] or middle.data.samples=5000, and settings of all runs; any KEY=VALUE "
        "makes it a trial",
        {"quick": "a trial of a few cells with few settings, in a few minutes"},
        prog="implicit-em recover",
        description="Tune all families on data with known features, train the chosen settings "
        "over seeds, and measure which features they find.",
    )


if __name__ == "__main__":
    sys.exit(main())
