"""The objective: named, weighted loss terms, summed."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from implicit_em.base.placement import numbers_like
from implicit_em.codes import Code
from implicit_em.losses import coded, derived

CODED = {"energies", "active", "gates", "slab"}
"""Names of the tensors of a model that may be codes."""
ALL = slice(None)


@dataclass(frozen=True)
class Term:
    """A loss function with its weight.

    Args:
        function: loss function. Parameters with neither a default nor a value in ``options`` name
            the tensors that it takes from the model's outputs: ``x``, ``energies``, ``weight`` (the
            K x D encoder matrix), or others that the model provides.
        weight: factor on the value; a stack has a tensor of shape ``(R,)``.
        options: further arguments of the function.
        warmup: number of steps over which the weight rises linearly from 0.
    """

    function: Callable[..., Tensor]
    weight: float | Tensor = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    warmup: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that the function asks for."""
        parameters = inspect.signature(self.function).parameters.values()
        needed = [p for p in parameters if p.default is p.empty and p.name not in self.options]
        return tuple(p.name for p in needed if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))

    def weighs(self, number: float) -> bool:
        """Return whether the weight is this number, for every replica."""
        return not isinstance(self.weight, Tensor) and self.weight == number

    def weight_of(self, replicas: slice) -> float | Tensor:
        """Return the weight of some replicas of a stack; one number is the weight of all."""
        return self.weight[replicas] if isinstance(self.weight, Tensor) else self.weight

    def declares(self, *marks: str) -> bool:
        """Return whether the function has all marks of ``losses.stacking``."""
        return all(getattr(self.function, mark, False) for mark in marks)


class Objective:
    """Weighted sum of loss terms, ``L = sum_t weight_t * term_t``.

    A term of weight 0 is neither computed nor reported. Terms with a closed form are computed
    together.

    Args:
        terms: loss terms by name.

    Raises:
        ValueError: if no term has a weight other than 0.
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        self.terms = {name: term for name, term in terms.items() if not term.weighs(0)}
        if not self.terms:
            raise ValueError("an objective needs at least one term whose weight is not 0")
        self._unweighted = {name for name, term in self.terms.items() if term.weighs(1)}
        inputs = {name: term.inputs for name, term in self.terms.items()}
        self.inputs = {*chain.from_iterable(inputs.values())}
        """Names of all tensors that the terms ask for."""
        self.sparse = [name for name, term in self.terms.items() if term.declares("makes_sparse")]
        """Names of the terms that make units sparse; see ``makes_sparse``."""
        self._closed = {
            name: (term.function, term.options)
            for name, term in self.terms.items()
            if term.function in derived.CLOSED_FORMS and inputs[name] == ("energies",)
        }
        self._others = {name: inputs[name] for name in self.terms if name not in self._closed}

    @property
    def without_codes(self) -> list[str]:
        """Names of the terms that would get a code and cannot take one."""
        coded = [name for name, inputs in self._others.items() if CODED.intersection(inputs)]
        marks = ("takes_codes", "takes_stacks")
        return [name for name in coded if not self.terms[name].declares(*marks)]

    @property
    def signature(self) -> tuple[Any, ...]:
        """Key that the objectives of a stack share: all but the weights."""
        return tuple(
            (name, term.function, repr(sorted(term.options.items())))
            for name, term in self.terms.items()
        )

    def __call__(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total and the unweighted terms; ``outputs`` has all tensors of ``inputs``."""
        values = self.values(outputs)
        return self._total(values), values

    def values(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the unweighted terms by name; ``outputs`` has all tensors of ``inputs``."""
        found = self._evaluate_others(outputs)
        if self._closed:
            values = derived.evaluate(outputs["energies"], list(self._closed.values()))
            found |= zip(self._closed, values, strict=True)
        return {name: found[name] for name in self.terms}

    def _evaluate_others(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: self._evaluate(self.terms[name], {key: outputs[key] for key in inputs})
            for name, inputs in self._others.items()
        }

    def _evaluate(self, term: Term, tensors: Mapping[str, Tensor]) -> Tensor:
        return term.function(**tensors, **term.options)

    def _total(self, values: Mapping[str, Tensor], replicas: slice = ALL) -> Tensor:
        """Return the weighted sum of the terms whose values are given, of some replicas."""
        weighted = [
            values[name] if name in self._unweighted else term.weight_of(replicas) * values[name]
            for name, term in self.terms.items()
            if name in values
        ]
        return sum(weighted[1:], weighted[0])


Differentiated = tuple[Tensor, list[Tensor], list[tuple[Tensor, Tensor]]]
"""What ``StackedObjective.differentiate`` returns."""


class StackedObjective(Objective):
    """The objectives of R replicas, which differ in their weights; all values have shape ``(R,)``.

    A term that does not declare ``takes_stacks`` sees one replica at a time.

    Args:
        objectives: one for each replica, all of the same ``signature``.
        like: tensor whose device and dtype the weights take.
        controlled: whether ``control`` sets the weights of the terms that make units sparse; they
            have no warm-up then.
    """

    def __init__(
        self, objectives: Sequence[Objective], like: Tensor, controlled: bool = False
    ) -> None:
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._warming: list[tuple[Tensor, Tensor, list[int]]] = []
        self._controlled: list[tuple[Tensor, Tensor]] = []
        weights, terms = {}, {}
        for name, term in objectives[0].terms.items():
            values = [objective.terms[name].weight for objective in objectives]
            warmups = [objective.terms[name].warmup for objective in objectives]
            weights[name] = torch.tensor(values, device=like.device, dtype=dtype)
            constant = False
            if controlled and name in objectives[0].sparse:
                self._controlled.append((weights[name], weights[name].clone()))
            elif any(warmups):
                self._warming.append((weights[name], weights[name].clone(), warmups))
            else:
                constant = values.count(term.weight) == len(values)
            terms[name] = term if constant else replace(term, weight=weights[name])
        super().__init__(terms)
        self._closed_weights = [weights[name].view(-1, 1, 1) for name in self._closed]

    @property
    def warms_up(self) -> bool:
        """Whether a weight depends on the number of steps."""
        return bool(self._warming)

    def warm_up(self, steps_done: Sequence[int]) -> None:
        """Set the weights that rise, given the number of steps that each replica has made."""
        for weights, full, warmups in self._warming:
            pairs = zip(steps_done, warmups, strict=True)
            factors = [min(1.0, done / steps) if steps else 1.0 for done, steps in pairs]
            torch.mul(full, numbers_like(full, factors), out=weights)

    def control(self, factor: Tensor) -> list[Tensor]:
        """Set the weights of terms that make units sparse to a multiple of their own; return them.

        The factor and each of the new tensors returned have shape ``(R,)``.
        """
        return [weights.copy_(full * factor).clone() for weights, full in self._controlled]

    def differentiate(self, outputs: Mapping[str, Any], apart: bool = False) -> Differentiated:
        """Return the total, the unweighted terms, and the starts of the backward pass.

        A start is a tensor, with the gradient of the total with respect to this tensor. Closed
        forms start at the energies, the other terms at their weighted sum.

        Args:
            outputs: tensors of ``inputs``; outputs of a stack of one may be codes.
            apart: whether to treat one replica after another; each then has the bits that it gets
                alone, whatever the sizes.
        """
        if not apart:
            return self._differentiate(outputs, ALL)
        totals, values, starts = zip(
            *(
                self._differentiate({k: v[r : r + 1] for k, v in outputs.items()}, slice(r, r + 1))
                for r in range(len(next(iter(outputs.values()))))
            ),
            strict=True,
        )
        terms = [torch.cat(of_replicas) for of_replicas in zip(*values, strict=True)]
        return torch.cat(totals), terms, [*chain.from_iterable(starts)]

    def _differentiate(self, outputs: Mapping[str, Any], replicas: slice) -> Differentiated:
        values: dict[str, Tensor] = {}
        starts = []
        if self._others:
            others = self._evaluate_others(outputs)
            weighted = self._total(others, replicas)
            if weighted.requires_grad or not self._closed:
                starts.append((weighted, torch.ones_like(weighted)))
            values = {name: value.detach() for name, value in others.items()}
        if self._closed:
            energies = outputs["energies"]
            forms = coded if isinstance(energies, Code) else derived
            weights = [weight[replicas] for weight in self._closed_weights]
            found, gradient = forms.value_and_gradient(energies, [*self._closed.values()], weights)
            values |= zip(self._closed, found, strict=True)
            start = energies.values_N if isinstance(energies, Code) else energies
            starts.append((start, gradient))
        return self._total(values, replicas), [values[name] for name in self.terms], starts

    def _evaluate(self, term: Term, tensors: Mapping[str, Tensor]) -> Tensor:
        evaluate = super()._evaluate
        if term.declares("takes_stacks"):
            return evaluate(term, tensors)
        replicas = zip(*(tensor.unbind() for tensor in tensors.values()), strict=True)
        return torch.stack(
            [evaluate(term, dict(zip(tensors, replica, strict=True))) for replica in replicas]
        )
