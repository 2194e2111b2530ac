"""What a loss term declares: that it takes stacks, takes codes, or makes units sparse."""

from collections.abc import Callable

from torch import Tensor


def takes_stacks(term: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Declare that a term gives each replica of a stack the bits that it gets alone.

    A term without this declaration sees one replica at a time, and its run trains alone.
    """
    term.takes_stacks = True  # type: ignore[attr-defined]
    return term


def takes_codes(term: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Declare that a term also takes a ``Code`` in place of energies, active units or gates.

    If a term lacks this declaration or ``takes_stacks``, all steps of its run are dense.
    """
    term.takes_codes = True  # type: ignore[attr-defined]
    return term


def makes_sparse(term: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Declare that a larger weight of a term makes fewer units active.

    ``model.l0`` controls the weights of such terms.
    """
    term.makes_sparse = True  # type: ignore[attr-defined]
    return term
