"""The framework's commands; each imports what it needs when it is called."""

from collections.abc import Sequence

from implicit_em.base.imports import quick_imports


def train(arguments: Sequence[str]) -> int:
    """Train one run or, with -m, a sweep."""
    from implicit_em.cli import composed

    return composed.train(arguments)


def explore(arguments: Sequence[str]) -> int:
    """Write a page of every feature of finished runs."""
    with quick_imports():
        from implicit_em.viewer.__main__ import main

    return main(arguments)


def export(arguments: Sequence[str]) -> int:
    """Write a finished run for other tools, such as SAELens."""
    with quick_imports():
        from implicit_em.trained.export import main

    return main(arguments)


def evaluate(arguments: Sequence[str]) -> int:
    """Measure a finished run again, also on other data."""
    with quick_imports():
        from implicit_em.trained.evaluate import main

    return main(arguments)


def collect(arguments: Sequence[str]) -> int:
    """Write pages, exports and an index of all finished runs below a directory."""
    from implicit_em.viewer.collecting import main

    return main(arguments)


def steer(arguments: Sequence[str]) -> int:
    """Write a text of a language model steered by a unit of a run, beside the text without."""
    from implicit_em.language.steering import main

    return main(arguments)


def summarise(arguments: Sequence[str]) -> int:
    """Write the summary of a sweep again."""
    with quick_imports():
        from implicit_em.sweeps.__main__ import main

    return main(arguments)
