"""Training of a stack: replicas of one model whose matrix products are one batched product.

A run alone is a stack of one, so that a replica gets the same bits in any company (on a CPU, with
one thread): each operation of a step either treats the replicas one by one or is batched over them
in a way that does not change how one of them rounds.
"""

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from implicit_em.data import Block, batches_of
from implicit_em.distributed import Group
from implicit_em.engine.rounding import parameters_fill_lanes, statistics_fill_lanes
from implicit_em.losses import Objective, StackedObjective
from implicit_em.losses.derived import full_precision
from implicit_em.models.declarations import undeclared
from implicit_em.models.linear import SharedInput

ELEMENTWISE = (SGD, Adam, AdamW)
"""Optimizers that treat each element by itself, so that many parameters take one call."""


class Replica(Protocol):
    """One run: its model and objective, and how its weights move."""

    model: Any
    objective: Objective
    compiled: bool

    @property
    def outputs(self) -> Callable[[Any, Tensor | SharedInput], dict[str, Tensor]]:
        """What the model makes of inputs, by the names that loss terms ask for."""

    @property
    def bare_optimizer(self) -> Optimizer | None:
        """The optimizer, where nothing but its step moves the weights."""

    @property
    def steps_done(self) -> int:
        """Number of steps before a block; asked for where weights of terms depend on it."""

    def update(self) -> None:
        """Make an optimizer step; the gradients lie on the model's parameters."""


@dataclass(eq=False)
class BareReplica:
    """A run of which there is no more than a stack needs: an optimizer's step moves its weights.

    Args:
        model: as a ``Replica`` has it.
        objective: likewise.
        bare_optimizer: of the model's parameters.
        outputs: what the model makes of inputs, by the names that loss terms ask for.
        compiled: whether the step is compiled.
        steps_done: asked for where weights of terms depend on it.

    """

    model: Any
    objective: Objective
    bare_optimizer: Optimizer
    outputs: Callable[[Any, Tensor | SharedInput], dict[str, Tensor]]
    compiled: bool = False
    steps_done: int = 0

    def update(self) -> None:
        """Make an optimizer step."""
        self.bare_optimizer.step()


class Stack:
    """Replicas that take their steps together.

    The parameters and buffers of all models lie in one tensor each, of which the models' own become
    views. A model's ``before_step`` is called when the gradients are there, its ``after_step`` when
    the weights have moved.

    Args:
        replicas: equal but for their parameters, the weights of their objectives and their
            optimizers; several of them only of models that ``takes_stacks``.
        group: of processes that take the steps of one replica together.

    """

    def __init__(self, replicas: Sequence[Replica], group: Group | None = None) -> None:
        first = replicas[0]
        self.replicas = list(replicas)
        self.group = group or Group()
        self.outputs = first.outputs
        self.own = [list(replica.model.parameters()) for replica in replicas]
        weight = self.own[0][0]
        self.dtype = weight.dtype
        self.lifted = not takes_stacks(first.model)
        if self.lifted and len(replicas) > 1:
            raise ValueError(f"{type(first.model).__name__} does not take stacks")
        models = [replica.model for replica in replicas]
        self.model = first.model if self.lifted else stack_models(models)
        self.parameters = list(self.model.parameters())
        self._before_step = getattr(self.model, "before_step", None)
        self._after_step = getattr(self.model, "after_step", None)
        objectives = [replica.objective for replica in replicas]
        self.objective = StackedObjective(objectives, weight)
        self.each = [StackedObjective([objective], weight) for objective in objectives]
        self.names = ("loss", *self.objective.terms)
        self.failures: dict[int, Exception] = {}
        """What the own update of a replica raised, by its position; its weights move no more."""
        self.updates: list[Callable[[], Any]] = []
        self._settings: list[Any] = []
        self._forward = torch.compile(self._evaluate) if first.compiled else self._evaluate

    def train(self, blocks: Sequence[Block]) -> Tensor:
        """Train each replica on its block, batch by batch.

        Args:
            blocks: one a replica, with batches of the same sizes. Neighbours with equal blocks
                share the samples.

        Returns:
            The total and the unweighted terms at each step, shape ``(S, 1 + T, R)``.

        Raises:
            Exception: what the update of a replica alone raised; of several, see ``failures``.

        """
        self._merge_updates()
        runs = [(block, len(list(equal))) for block, equal in groupby(blocks)]
        different, counts = zip(*runs, strict=True)
        own = [block.part(self.group) for block in different]
        values: list[Tensor] = []
        batches_of_steps = zip(blocks[0].sizes, batches_of(own, self.dtype), strict=True)
        for number, (size, batches) in enumerate(batches_of_steps):
            if self.objective.warms_up:
                self._warm_up(number)
            values += self._step(SharedInput(batches, counts), size)
        if len(self.failures) == len(self.replicas):
            raise self.failures[0]
        return torch.stack(values).view(-1, len(self.names), len(self.replicas))

    def _merge_updates(self) -> None:
        """Merge the optimizers, anew where something has changed their settings."""
        settings = [_settings(replica) for replica in self.replicas]
        if settings != self._settings:
            merged, alone = merge_updates(self.replicas)
            self.updates = [*merged, *(partial(self._update_alone, number) for number in alone)]
            self._settings = settings

    def _update_alone(self, number: int) -> None:
        if number not in self.failures:
            try:
                self.replicas[number].update()
            except Exception as error:  # the failure of this run alone
                self.failures[number] = error

    def _warm_up(self, number: int) -> None:
        """Set the weights of terms for a step, given its number within the block."""
        steps = [replica.steps_done + number for replica in self.replicas]
        self.objective.warm_up(steps)
        for objective, done in zip(self.each, steps, strict=True):
            objective.warm_up([done])

    def _step(self, x: SharedInput, samples: int) -> Iterable[Tensor]:
        if self.group.size == 1:
            total, parts, starts = self._forward(x)
        else:
            outputs = self.group.gather(self._outputs(x), samples)
            total, parts, starts = self.objective.differentiate(outputs)
        for parameter in self.parameters:
            parameter.grad = None
        with full_precision(total):
            tensors, gradients = zip(*starts, strict=True)
            torch.autograd.backward(tensors, gradients)
        if self.group.size > 1:
            self.group.add_gradients(self.parameters)
        if self._before_step:
            self._before_step()
        if not self.lifted:
            self._hand_out_gradients()
        with torch.no_grad():
            for update in self.updates:
                update()
        if self._after_step:
            self._after_step()
        return total, *parts

    def _evaluate(self, x: SharedInput) -> Any:
        return self._differentiate(self._outputs(x))

    def _outputs(self, x: SharedInput) -> Mapping[str, Tensor]:
        asked = self.objective.inputs
        if self.lifted:
            outputs = {"x": x.batches[0], **self.outputs(self.model, x.batches[0])}
            return {name: outputs[name].unsqueeze(0) for name in asked}
        outputs = self.outputs(self.model, x)
        if "x" in asked:
            outputs["x"] = x.expanded()
        return {name: outputs[name] for name in asked}

    def _differentiate(self, outputs: Mapping[str, Tensor]) -> Any:
        if len(self.replicas) == 1 or statistics_fill_lanes(outputs):
            return self.objective.differentiate(outputs)
        totals, parts, starts = zip(
            *(
                objective.differentiate({k: v[r : r + 1] for k, v in outputs.items()})
                for r, objective in enumerate(self.each)
            ),
            strict=True,
        )
        terms = [torch.cat(values) for values in zip(*parts, strict=True)]
        return torch.cat(totals), terms, [start for some in starts for start in some]

    def _hand_out_gradients(self) -> None:
        none = [None] * len(self.replicas)
        for number, stacked in enumerate(self.parameters):
            grads = none if stacked.grad is None else stacked.grad.unbind()
            for own, grad in zip(self.own, grads, strict=True):
                own[number].grad = grad


def merge_updates(replicas: Sequence[Replica]) -> tuple[list[Callable[[], Any]], list[int]]:
    """Return one call for all replicas whose optimizers are set alike, and who is left by itself.

    Args:
        replicas: of a stack.

    Returns:
        The calls, each a step of some replicas; and the positions of the others.

    """
    alone: list[int] = []
    alike: dict[Any, list[Any]] = {}
    for number, replica in enumerate(replicas):
        settings = _settings(replica)
        if settings is None:
            alone.append(number)
        else:
            alike.setdefault(settings, []).append(replica.bare_optimizer)
    return [_bare_step(merge_optimizers(some)) for some in alike.values()], alone


def _bare_step(optimizer: Optimizer) -> Callable[[], Any]:
    """Return the step without torch's wrappers for profilers and hooks, which cost as much."""
    return partial(inspect.unwrap(type(optimizer).step), optimizer)


def _settings(replica: Replica) -> Any:
    """Return what optimizers that can be merged have in common; ``None`` for one that cannot."""
    optimizer = replica.bare_optimizer
    if optimizer is None or type(optimizer) not in ELEMENTWISE:
        return None
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return None
    (group,) = optimizer.param_groups
    return type(optimizer), repr({k: v for k, v in group.items() if k != "params"})


def merge_optimizers(optimizers: Sequence[Optimizer]) -> Optimizer:
    """Return an optimizer of all parameters, which shares its state with those given."""
    if len(optimizers) == 1:
        return optimizers[0]
    merged = copy.copy(optimizers[0])
    parameters = [p for optimizer in optimizers for p in optimizer.param_groups[0]["params"]]
    merged.param_groups = [{**merged.param_groups[0], "params": parameters}]
    merged.state = defaultdict(dict)
    for optimizer in optimizers:
        merged.state |= {p: optimizer.state[p] for p in optimizer.param_groups[0]["params"]}
    return merged


def stack_models(models: Sequence[nn.Module]) -> nn.Module:
    """Return a model whose parameters and buffers hold those of all models, shape ``(R, ...)``.

    The models' own become views of them. A setting that the model's class names in ``settings`` is
    a list of the models' own.
    """
    stack = copy.deepcopy(models[0])
    for name, _ in list(stack.named_parameters()):
        own = [model.get_parameter(name) for model in models]
        values = torch.stack([parameter.detach() for parameter in own])
        module, _, leaf = name.rpartition(".")
        stacked = nn.Parameter(values, requires_grad=own[0].requires_grad)
        setattr(stack.get_submodule(module), leaf, stacked)
        for parameter, value in zip(own, values.unbind(), strict=True):
            parameter.data = value
    for name, _ in list(stack.named_buffers()):
        buffers = [model.get_buffer(name) for model in models]
        values = torch.stack(buffers)
        module, _, leaf = name.rpartition(".")
        setattr(stack.get_submodule(module), leaf, values)
        for buffer, value in zip(buffers, values.unbind(), strict=True):
            buffer.data = value
    for name in getattr(stack, "settings", ()):
        setattr(stack, name, [getattr(model, name) for model in models])
    return stack


def takes_stacks(model: nn.Module) -> bool:
    """Return whether several replicas of a model may be stacked; see ``models.declarations``."""
    return not undeclared(model, "takes_stacks") and parameters_fill_lanes(model)
