"""The commands of the studies; each imports its study when it is called."""

from collections.abc import Callable, Sequence
from importlib import import_module

from implicit_em.base.imports import quick_imports


def _of(study: str, purpose: str) -> Callable[[Sequence[str]], int]:
    def command(arguments: Sequence[str]) -> int:
        with quick_imports():
            module = import_module(f"implicit_em_studies.{study}")
        return module.STUDY.main(arguments)

    command.__doc__ = purpose
    return command


reproduce = _of("paper.study", "Reproduce the paper.")
compare = _of("comparison.study", "Tune and compare all families of models.")
recover = _of("recovery.study", "Tune all families on data with known features.")
language = _of("language.study", "Tune all families on language models.")
explaining = _of("language.explaining", "Compare codes of several sweeps on language models.")
theory = _of("theory.study", "Answer the theory's open questions.")


def dashboard(arguments: Sequence[str]) -> int:
    """Create the saved views of the W&B project."""
    with quick_imports():
        from implicit_em_studies.dashboard.__main__ import main

    return main(arguments)
