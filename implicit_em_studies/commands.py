"""The commands of the studies; each imports its study when it is called."""

from collections.abc import Sequence

from implicit_em.base.imports import quick_imports


def reproduce(arguments: Sequence[str]) -> int:
    """Reproduce the paper."""
    with quick_imports():
        from implicit_em_studies.paper.study import STUDY

    return STUDY.main(arguments)


def compare(arguments: Sequence[str]) -> int:
    """Tune and compare all families of models."""
    with quick_imports():
        from implicit_em_studies.comparison.study import STUDY

    return STUDY.main(arguments)


def recover(arguments: Sequence[str]) -> int:
    """Tune all families on data with known features."""
    with quick_imports():
        from implicit_em_studies.recovery.study import STUDY

    return STUDY.main(arguments)


def language(arguments: Sequence[str]) -> int:
    """Tune all families on language models."""
    with quick_imports():
        from implicit_em_studies.language.study import STUDY

    return STUDY.main(arguments)


def theory(arguments: Sequence[str]) -> int:
    """Answer the theory's open questions."""
    with quick_imports():
        from implicit_em_studies.theory.study import STUDY

    return STUDY.main(arguments)


def dashboard(arguments: Sequence[str]) -> int:
    """Create the saved views of the W&B project."""
    with quick_imports():
        from implicit_em_studies.dashboard.__main__ import main

    return main(arguments)
