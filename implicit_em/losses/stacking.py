"""How a loss term declares that it can be computed for a stack of replicas at once."""

from collections.abc import Callable

from torch import Tensor


def takes_stacks(term: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Declare that a term gives each replica of a stack the bits that it gets alone.

    A term without this declaration sees one replica at a time, and its run trains alone.
    """
    term.takes_stacks = True  # type: ignore[attr-defined]
    return term
