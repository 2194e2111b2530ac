"""Training of a stack: replicas of one model, whose matrix products become one batched product.

A run alone is a stack of one. A replica gets the same bits in any company, on a CPU with one
thread: each operation of a step either treats the replicas one by one, or treats all replicas at
once in a way that rounds each as it would be alone (``engine.rounding``).
"""

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from implicit_em.base.allocation import keep_freed_memory
from implicit_em.base.denormals import flushed_denormals
from implicit_em.base.placement import full_precision, numbers_like
from implicit_em.codes import Code
from implicit_em.data import Block, batches_of
from implicit_em.distributed import Group
from implicit_em.engine.control import SparsityControl
from implicit_em.engine.rounding import parameters_fill_lanes, statistics_fill_lanes
from implicit_em.losses import Objective, StackedObjective
from implicit_em.losses.derived import single
from implicit_em.losses.objective import CODED
from implicit_em.models.declarations import Steered, undeclared
from implicit_em.models.linear import SharedInput

Step = Callable[[], Any]
"""Function that moves weights."""


class Evaluated(NamedTuple):
    """What a step has before it goes backward; shape ``(R,)`` but for ``starts``."""

    total: Tensor
    values: list[Tensor]
    """The values that ``Stack.train`` returns of a step, without the total; L0 and the FVU only if
    the step is logged."""
    starts: list[tuple[Tensor, Tensor]]
    """Tensors from which to go backward, with their gradients."""
    steered: Tensor | None
    """What a control of L0 sets in the model once the step has gone backward."""


@dataclass(eq=False)
class BareReplica:
    """One run: its model, its objective, and how its weights move.

    The step of an optimizer moves the weights of a ``BareReplica``. An ``EnergyModule`` has the
    same attributes, and is a replica, too.
    """

    model: Any
    objective: Objective
    bare_optimizer: Any
    """The optimizer, if nothing but its step moves the weights."""
    compiled: bool = False
    sparse_up_to: float = 0.0
    """Largest share of entries at which a step is sparse; at 0, all steps are dense. A run with a
    share above 0 is a stack of one."""
    steps_done: int = 0
    """Number of steps before a block; read only if something of a step depends on this number."""
    control: SparsityControl | None = None
    """Controller of the weights that make units sparse; all replicas of a stack have one, or none.
    """
    steps_in_all: int = 0
    """Number of steps of the whole training; read only with a ``control``."""
    log_every: int = 0
    """Number of steps from one that is logged to the next, 0 for none. All replicas of a stack log
    steps, or none does."""
    training_mean: Tensor | None = None
    """Mean of the training samples, shape ``(D,)``, for the FVU of steps that are logged; ``None``
    for a model without a decoder."""

    def update(self) -> None:
        """Move the weights by the gradients that lie on the model's parameters."""
        self.bare_optimizer.step()


@contextmanager
def _without_cast_cache() -> Iterator[None]:
    """Let autocast convert weights anew each time: weights in its cache miss the next update."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


class Stack:
    """Replicas that take their steps together.

    They differ only in their parameters, the weights of their loss terms, the targets of their
    controls and their optimizers. Each parameter and each buffer lies in one tensor for all models,
    and the models' own tensors become views of this one. A step calls ``before_step`` of the model
    once the gradients are there, and ``after_step`` once the weights have moved.
    """

    def __init__(self, replicas: Sequence[Any], group: Group | None = None) -> None:
        keep_freed_memory()
        first = replicas[0]
        models = [replica.model for replica in replicas]
        self.stacked = takes_stacks(first.model) and not first.sparse_up_to
        if not self.stacked and len(replicas) > 1:
            why = "with sparse steps " if first.sparse_up_to else ""
            raise ValueError(f"{type(first.model).__name__} {why}does not take stacks")
        self._sparse_up_to = first.sparse_up_to
        self.replicas = list(replicas)
        self.group = group or Group()
        self._parameters_of_replicas = [list(model.parameters()) for model in models]
        self.model = stack_models(models) if self.stacked else first.model
        self.parameters = list(self.model.parameters())
        weight = self.parameters[0]
        self.dtype = weight.dtype
        controls = [replica.control for replica in replicas if replica.control is not None]
        self._control: Any = stack_models(controls) if controls else None
        self._steered: Steered | None = first.model.steered if controls else None
        controlled = bool(controls) and self._steered is None
        objectives = [replica.objective for replica in replicas]
        self.objective = StackedObjective(objectives, weight, controlled)
        self._names = self.objective.inputs | ({"energies"} if controls else set())
        self._measures = bool(first.log_every) and not first.compiled
        means = [r.training_mean for r in replicas if r.training_mean is not None]
        self._mean_R1D = torch.stack(means).unsqueeze(-2) if means else None
        dtype = torch.promote_types(self.dtype, torch.float32)
        nan_R = torch.full((len(replicas),), torch.nan, dtype=dtype, device=weight.device)
        self._not_measured = [nan_R, nan_R] if first.log_every else []
        self.failures: dict[int, Exception] = {}
        """Error of a replica's own update, by its position; its weights move no more."""
        self._updates: list[Step] = []
        self._settings: list[Any] = []
        self._forward = torch.compile(self.evaluate) if first.compiled else self.evaluate

    @flushed_denormals()
    @_without_cast_cache()
    def train(self, blocks: Sequence[Block]) -> Tensor:
        """Train each replica on its block; neighbours with equal blocks share them in memory.

        Returns the total and the unweighted terms at each step, shape ``(S, 1 + T, R)``. Under a
        control, L0 and the controlled weights follow the terms. If steps may be sparse, the next
        value is 1 for a sparse step, else 0. If steps are logged, L0 and the FVU come last. Both
        are NaN for a step that is not logged, and for every compiled step, as compiled steps must
        all be alike; the FVU is also NaN without a decoder. ``failures`` gets the errors of
        updates; the first error is raised if all replicas have failed.
        """
        self._merge_updates()
        neighbours = [(block, len(list(equal))) for block, equal in groupby(blocks)]
        parts = [block.part(self.group) for block, _ in neighbours]
        counts = [count for _, count in neighbours]
        values: list[Tensor] = []
        steps = zip(blocks[0].sizes, batches_of(parts, self.dtype), strict=True)
        progress = self._progress(len(blocks[0].sizes))
        logged = self._logged(len(blocks[0].sizes))
        for number, (size, batches) in enumerate(steps):
            if self.objective.warms_up:
                self.objective.warm_up([replica.steps_done + number for replica in self.replicas])
            inputs = SharedInput(batches, counts)
            values += self._step(inputs, size, progress[number], logged[number])
        if len(self.failures) == len(self.replicas):
            raise self.failures[0]
        return torch.stack(values).view(len(progress), -1, len(self.replicas))

    def _merge_updates(self) -> None:
        """Merge the optimizers again if their settings have changed."""
        optimizers = [replica.bare_optimizer for replica in self.replicas]
        settings = [settings_of(optimizer) for optimizer in optimizers]
        if settings != self._settings:
            merged, left_out = merge_steps(optimizers)
            self._updates = [*merged, *(partial(self._update_one, number) for number in left_out)]
            self._settings = settings

    def _update_one(self, number: int) -> None:
        if number in self.failures:
            return
        try:
            self.replicas[number].update()
        except Exception as error:  # it concerns this run alone
            self.failures[number] = error

    def _progress(self, steps: int) -> Sequence[Tensor | None]:
        """Return the shares of the whole training before each step of a block, ``(R,)`` each."""
        if self._control is None:
            return [None] * steps
        counts = [(replica.steps_done, replica.steps_in_all) for replica in self.replicas]
        shares_SR = [
            [min((done + step) / total, 1.0) for done, total in counts] for step in range(steps)
        ]
        return numbers_like(self._control.target, shares_SR).unbind()

    def _logged(self, steps: int) -> list[bool]:
        """Return which steps of a block any replica logs; their numbers alone decide."""
        if not self._measures:
            return [False] * steps
        counts = [(replica.steps_done, replica.log_every) for replica in self.replicas]
        return [
            any((done + number) % every == 0 for done, every in counts)
            for number in range(1, steps + 1)
        ]

    def _step(
        self, x: SharedInput, samples: int, progress: Tensor | None, logged: bool
    ) -> Iterable[Tensor]:
        found = self._forward(x, samples, progress, logged)
        for parameter in self.parameters:
            parameter.grad = None
        with full_precision(found.total):
            tensors, gradients = zip(*found.starts, strict=True)
            torch.autograd.backward(tensors, gradients)
        if self._steered and found.steered is not None:
            buffer: Tensor = getattr(self.model, self._steered.name)
            buffer.copy_(found.steered.view(buffer.shape))
        if self.group.size > 1:
            self.group.add_gradients(self.parameters)
        if self.model.before_step:
            self.model.before_step()
        if self.stacked:
            self._hand_out_gradients()
        with torch.no_grad():
            for update in self._updates:
                update()
        if self.model.after_step:
            self.model.after_step()
        return found.total, *found.values, *([] if logged else self._not_measured)

    def evaluate(
        self, x: SharedInput, samples: int, progress: Tensor | None = None, logged: bool = False
    ) -> Evaluated:
        """Return the objective of a batch, and what the rest of the step needs.

        Args:
            x: inputs of all replicas; of several processes, this one's part of them.
            samples: number of samples of the batch, in all processes.
            progress: share of the training so far, ``(R,)``; ``None`` without a control.
            logged: whether L0 and the FVU of the batch are measured.
        """
        outputs = self._outputs(x, logged)
        if self.group.size > 1:
            outputs = self.group.gather(self._alike(outputs), samples)
        with full_precision(self.parameters[0]):
            measured = self._measured(outputs) if logged else []
            outputs = {n: _exact(outputs[n]) for n in self._names}  # the same if nothing is logged
            apart = len(self.replicas) > 1 and not statistics_fill_lanes(outputs)
            further: list[Tensor] = []
            steered = None
            if progress is not None:
                further, steered = self._regulate(outputs, progress)
            if self._sparse_up_to:
                further.append(self.parameters[0].new_full((1,), _has_codes(outputs)))
            total, values, starts = self.objective.differentiate(outputs, apart)
            return Evaluated(total, [*values, *further, *measured], starts, steered)

    @torch.no_grad()
    def _measured(self, outputs: Mapping[str, Any]) -> list[Tensor]:
        """Return L0, and the FVU of the batch about the training mean, ``(R,)`` each."""
        nan_R = self._not_measured[0]
        l0 = _l0(outputs["energies"]).to(nan_R.dtype)
        if self._mean_R1D is None:
            return [l0, nan_R]
        pairs = (("target", outputs["reconstruction"]), ("data_target", self._mean_R1D))
        residual, spread = (
            (outputs[name].to(nan_R.dtype) - other).square().sum((-2, -1)) for name, other in pairs
        )
        return [l0, residual / spread]

    @torch.no_grad()
    def _regulate(
        self, outputs: Mapping[str, Tensor], progress: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return L0 and what a control sets, ``(R,)`` each; then the value of a buffer, if any."""
        l0 = _l0(outputs["energies"])
        factor = self._control.update(l0, progress)
        if self._steered:
            base: Tensor = getattr(self.model, str(self._steered.base)).flatten()
            value = (base * factor).to(base.dtype)
            return [l0, value], value
        return [l0, *self.objective.control(factor)], None

    def _outputs(self, rows: SharedInput, logged: bool) -> Mapping[str, Any]:
        names = {*self._names}
        if logged:
            names.add("energies")
            if self._mean_R1D is not None:
                names |= {"target", "data_target", "reconstruction"}
        step = self._sparse_outputs if self._sparse_up_to else None
        outputs = outputs_of(self.model, rows if self.stacked else rows.batches[0], names, step)
        if self.stacked:
            return {name: outputs[name] for name in names}
        return {
            name: outputs[name] if isinstance(outputs[name], Code) else outputs[name].unsqueeze(0)
            for name in names
        }

    def _sparse_outputs(self, x: Tensor) -> Mapping[str, Any]:
        model: Any = self.model
        most = int(self._sparse_up_to * len(x) * model.weight.shape[-2])
        return model.sparse_outputs(x, most)

    def _alike(self, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replace codes by tensors if any process has too many active units for a code."""
        if not self._sparse_up_to or self.group.agrees(
            _has_codes(outputs), self.parameters[0].device
        ):
            return outputs
        return {
            name: output.dense().unsqueeze(0) if isinstance(output, Code) else output
            for name, output in outputs.items()
        }

    def _hand_out_gradients(self) -> None:
        """Give each model its part of the gradients of the stack's parameters."""
        none = [None] * len(self.replicas)
        for number, stacked in enumerate(self.parameters):
            gradients = none if stacked.grad is None else stacked.grad.unbind()
            for parameters, gradient in zip(self._parameters_of_replicas, gradients, strict=True):
                parameters[number].grad = gradient


def _exact(output: Any) -> Any:
    """Return a tensor of half precision as float32: the terms are sums of many numbers."""
    return single(output) if isinstance(output, Tensor) and output.is_floating_point() else output


def _has_codes(outputs: Mapping[str, Any]) -> bool:
    """Return whether a step is sparse: what may be a code is one."""
    return all(isinstance(outputs[name], Code) for name in CODED.intersection(outputs))


def _l0(energies: Tensor | Code) -> Tensor:
    """Return the mean number of units above 0 of a sample, ``(R,)``, in float64."""
    if isinstance(energies, Code):
        return (energies.values_N > 0).sum().double().view(1) / energies.shape[0]
    # As numbers, whose sums are vectorised; whole numbers below 2^24 are exact in float32.
    active = torch.gt(energies, 0, out=torch.empty_like(energies, dtype=torch.float32))
    return active.sum(-1).double().mean(-1)


def outputs_of(
    model: Any,
    rows: Tensor | SharedInput,
    names: Collection[str] = ("x", "target"),
    training_outputs: Callable[[Any], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the tensors for the loss terms of a model or a stack.

    Args:
        model: model or stack.
        rows: inputs; for a model of another target, inputs and targets side by side.
        names: which of ``x``, ``target`` and ``data_target`` to return. ``data_target`` is the
            target in the data, and ``target`` is what the model's linear path leaves of the target
            in the data.
        training_outputs: function from inputs to tensors; ``None`` for the model's own.
    """
    x, target = model.sides(rows)
    outputs = {"weight": model.weight, **(training_outputs or model.training_outputs)(x)}
    if "x" in names:
        outputs["x"] = x.expanded() if isinstance(x, SharedInput) else x
    if {"target", "data_target"}.intersection(names):
        in_data = target.expanded() if isinstance(target, SharedInput) else target
        outputs |= {"target": model.to_explain(x, in_data), "data_target": in_data}
    return outputs


def takes_stacks(model: nn.Module) -> bool:
    """Return whether replicas of a model may be stacked; see ``models.declarations``."""
    return not undeclared(model, "takes_stacks") and parameters_fill_lanes(model)


def stack_models(models: Sequence[Any]) -> Any:
    """Return a model with the parameters and buffers of all models, shape ``(R, ...)`` each.

    The parameters and buffers of the models become views of the stack's. Each other attribute that
    the class names in ``settings`` becomes a list of the models' values.
    """
    stack = copy.deepcopy(models[0])
    for name, tensor in [*stack.named_parameters(), *stack.named_buffers()]:
        tensors = [attrgetter(name)(model) for model in models]
        values = torch.stack([tensor.detach() for tensor in tensors])
        for one, value in zip(tensors, values.unbind(), strict=True):
            one.data = value
        if isinstance(tensor, nn.Parameter):
            values = nn.Parameter(values, requires_grad=tensor.requires_grad)
        module, _, leaf = name.rpartition(".")
        setattr(stack.get_submodule(module), leaf, values)
    for name in stack.settings:
        if not isinstance(getattr(stack, name), Tensor):
            setattr(stack, name, [getattr(model, name) for model in models])
    return stack


def merge_steps(optimizers: Sequence[Optimizer | None]) -> tuple[list[Step], list[int]]:
    """Return a step for each set of optimizers of equal settings, and the positions of all others.

    An optimizer is ``None`` where more than the optimizer's step moves the weights.
    """
    left_out: list[int] = []
    mergeable: dict[Any, list[Any]] = {}
    for position, optimizer in enumerate(optimizers):
        settings = settings_of(optimizer)
        if settings is None:
            left_out.append(position)
        else:
            mergeable.setdefault(settings, []).append(optimizer)
    merged = [merge_optimizers(equal) for equal in mergeable.values()]
    # Without torch's wrappers for profilers and hooks, which cost as much as the step.
    return [partial(inspect.unwrap(type(one).step), one) for one in merged], left_out


def settings_of(optimizer: Any) -> Any:
    """Return a key that optimizers share if they can be merged; ``None`` if this one cannot be."""
    if type(optimizer) not in (SGD, Adam, AdamW):  # they treat each element alone
        return None
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return None
    (group,) = optimizer.param_groups
    return type(optimizer), repr({k: v for k, v in group.items() if k != "params"})


def merge_optimizers(optimizers: Sequence[Optimizer]) -> Optimizer:
    """Return an optimizer of all parameters, which shares its state with the given optimizers."""
    if len(optimizers) == 1:
        return optimizers[0]
    merged = copy.copy(optimizers[0])
    parameters = [p for optimizer in optimizers for p in optimizer.param_groups[0]["params"]]
    merged.param_groups = [{**merged.param_groups[0], "params": parameters}]
    merged.state = defaultdict(dict)
    for optimizer in optimizers:
        merged.state |= {p: optimizer.state[p] for p in optimizer.param_groups[0]["params"]}
    return merged
