"""The objective: named, weighted loss terms, summed."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Term:
    """A loss function with its weight.

    Parameters of ``function`` that have no default and no value in ``options`` name the tensors
    that it takes from the model's outputs, e.g. ``energies``.
    """

    function: Callable[..., Tensor]
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that the function asks for."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(
            p.name
            for p in parameters
            if p.default is p.empty
            and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            and p.name not in self.options
        )


class Objective:
    """Weighted sum of loss terms, ``L = sum_t weight_t * term_t``.

    Terms of weight 0 are dropped: they are neither computed nor reported.

    Args:
        terms: a name for each term.

    Raises:
        ValueError: if no term has a weight other than 0.

    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        self.terms = {name: term for name, term in terms.items() if term.weight != 0}
        if not self.terms:
            raise ValueError("an objective needs at least one term whose weight is not 0")
        self._calls = [(term, term.inputs) for term in self.terms.values()]

    @property
    def inputs(self) -> set[str]:
        """Names of all tensors that the terms ask for."""
        return {name for _, inputs in self._calls for name in inputs}

    def __call__(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total and the unweighted value of each term.

        Args:
            outputs: tensors by name, at least those in ``inputs``.

        """
        values = [
            term.function(**{name: outputs[name] for name in inputs}, **term.options)
            for term, inputs in self._calls
        ]
        weighted = [
            value if term.weight == 1 else term.weight * value
            for value, (term, _) in zip(values, self._calls, strict=True)
        ]
        total = weighted[0]
        for value in weighted[1:]:
            total = total + value
        return total, dict(zip(self.terms, values, strict=True))
