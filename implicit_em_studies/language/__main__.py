"""``implicit-em language``: the families tuned on activations of language models."""

import sys
from collections.abc import Sequence

from implicit_em_studies.language.study import LANGUAGE, language
from implicit_em_studies.shared.command_line import run_study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that the command line asks for; return the same exit codes as ``train.py``."""
    return run_study(
        language,
        LANGUAGE,
        arguments,
        "MODEL | KEY=VALUE",
        "language models of conf/language.yaml (all if none is named), keys of that file, e.g. "
        "seeds=[1,2] or parts.minilm.model.hidden=1024, and settings of all runs; any KEY=VALUE "
        "makes it a trial",
        {"quick": "a trial of three families on a small harvest, in about ten minutes"},
        prog="implicit-em language",
        description="Harvest activations of language models, tune all families on them, train "
        "the chosen settings over seeds, and measure them, inside the model if it is causal.",
    )


if __name__ == "__main__":
    sys.exit(main())
