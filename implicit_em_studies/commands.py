"""The commands of the studies; each imports its study when it is called."""

from collections.abc import Callable, Sequence
from importlib import import_module

from implicit_em.base.imports import quick_imports


def _of(study: str, purpose: str) -> Callable[[Sequence[str]], int]:
    def command(arguments: Sequence[str]) -> int:
        with quick_imports():
            module = import_module(f"implicit_em_studies.{study}.study")
        return module.STUDY.main(arguments)

    command.__doc__ = purpose
    return command


reproduce = _of("paper", "Reproduce the paper.")
compare = _of("comparison", "Tune and compare all families of models.")
recover = _of("recovery", "Tune all families on data with known features.")
language = _of("language", "Tune all families on language models.")
theory = _of("theory", "Answer the theory's open questions.")


def dashboard(arguments: Sequence[str]) -> int:
    """Create the saved views of the W&B project."""
    with quick_imports():
        from implicit_em_studies.dashboard.__main__ import main

    return main(arguments)
