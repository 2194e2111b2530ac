"""The objective: named, weighted loss terms, summed."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from implicit_em import losses


@dataclass(frozen=True)
class Term:
    """A loss function with its weight.

    Parameters of ``function`` that have no default and no value in ``options`` name the tensors
    that it takes from the model's outputs, e.g. ``energies``.
    """

    function: Callable[..., Tensor]
    weight: float | Tensor = 1.0
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

    Terms of weight 0 are dropped: they are neither computed nor reported. Terms with a closed form
    are computed together.

    Args:
        terms: a name for each term.

    Raises:
        ValueError: if no term has a weight other than 0.

    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        self.terms = {
            name: term
            for name, term in terms.items()
            if isinstance(term.weight, Tensor) or term.weight != 0
        }
        if not self.terms:
            raise ValueError("an objective needs at least one term whose weight is not 0")
        calls = {name: (term, term.inputs) for name, term in self.terms.items()}
        self.inputs = {name for _, inputs in calls.values() for name in inputs}
        """Names of all tensors that the terms ask for."""
        self._closed = {
            name: (term.function, term.options)
            for name, (term, inputs) in calls.items()
            if term.function in losses.CLOSED_FORMS and inputs == ("energies",)
        }
        self._others = {name: call for name, call in calls.items() if name not in self._closed}

    @property
    def signature(self) -> tuple[Any, ...]:
        """What objectives that make a stack have in common: all but the weights."""
        return tuple(
            (name, term.function, tuple(sorted(term.options.items())))
            for name, term in self.terms.items()
        )

    def __call__(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total and the unweighted value of each term.

        Args:
            outputs: tensors by name, at least those in ``inputs``.

        """
        found = {
            name: self._evaluate(term, {key: outputs[key] for key in inputs})
            for name, (term, inputs) in self._others.items()
        }
        if self._closed:
            values = losses.evaluate(outputs["energies"], list(self._closed.values()))
            found |= zip(self._closed, values, strict=True)
        weighted = [
            found[name] if _is_one(term.weight) else term.weight * found[name]
            for name, term in self.terms.items()
        ]
        total = weighted[0]
        for value in weighted[1:]:
            total = total + value
        return total, {name: found[name] for name in self.terms}

    def _evaluate(self, term: Term, tensors: Mapping[str, Tensor]) -> Tensor:
        return term.function(**tensors, **term.options)


class StackedObjective(Objective):
    """The objectives of R replicas, equal but for their weights; all values have shape ``(R,)``.

    Terms that are not known to take leading dimensions see one replica at a time.

    Args:
        objectives: of the replicas; those of one ``signature``.
        device: where the weights are needed.

    """

    def __init__(self, objectives: Sequence[Objective], device: torch.device) -> None:
        terms = {}
        for name, term in objectives[0].terms.items():
            weights = [objective.terms[name].weight for objective in objectives]
            same = len(set(weights)) == 1
            terms[name] = term if same else replace(term, weight=torch.tensor(weights, device=device))
        super().__init__(terms)

    def _evaluate(self, term: Term, tensors: Mapping[str, Tensor]) -> Tensor:
        if term.function in losses.TAKE_STACKS:
            return super()._evaluate(term, tensors)
        replicas = zip(*(tensor.unbind() for tensor in tensors.values()), strict=True)
        return torch.stack(
            [super(StackedObjective, self)._evaluate(term, dict(zip(tensors, replica, strict=True)))
             for replica in replicas]
        )


def _is_one(weight: float | Tensor) -> bool:
    return not isinstance(weight, Tensor) and weight == 1
