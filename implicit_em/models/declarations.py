"""What a model class declares about itself, by class attributes.

``takes_stacks = True``: given a stack, whose parameters and buffers have a leading dimension of
replicas, the model gives each replica the bits that it gets alone. Such a model reduces over
``-1`` and ``-2``, never over ``0`` or everything. Without this declaration a run is a stack of one.

``takes_parts = True``: the model treats each sample of a batch by itself, draws no random numbers
and changes no state. Without this declaration a run trains on one device.

``folds = True``: the method ``fold(normalizer)`` changes the model's weights to take raw samples in
place of normalised ones. Without this declaration the normaliser stays in front of the model.

``steps_sparsely = True``: the model has a method ``sparse_outputs`` for sparse steps, which gives
what ``training_outputs`` gives. Without this declaration all steps are dense.

``decodes = True``: the rows of an ``Encoder`` are also its decoder, so ``decode`` returns ``E W``.
Without this declaration ``decode`` and ``reconstruct`` raise. A class with it does not declare
``folds``: rows that take raw samples would not give raw samples back. A ``SparseAutoencoder`` has a
decoder, and declares nothing.

These declarations hold for the class whose body makes them. A subclass may compute something else,
so it declares anew.

``steered`` says what ``model.l0`` sets, and is inherited: see ``Steered``. Without it, a control of
L0 sets the weights of the loss terms that make units sparse.
"""

from typing import Literal, NamedTuple

from torch import nn

from implicit_em.models.activations import ELEMENTWISE

STACKED = {*ELEMENTWISE, nn.Sequential, nn.ModuleList, nn.ModuleDict}
"""Classes of ``torch.nn`` that need declare neither ``takes_stacks`` nor ``takes_parts``."""
BY_SAMPLE = STACKED | {nn.Linear, nn.LayerNorm, nn.PReLU}
"""Classes of ``torch.nn`` that need not declare ``takes_parts``."""


class Steered(NamedTuple):
    """What ``model.l0``, the number of active units of a sample, sets in a model."""

    name: str
    """Argument of the class that is this number, as ``k`` is; or, with a ``base``, a buffer, as
    ``temperature`` is: a control of L0 sets the buffer to a multiple of the base after each step.
    L0 should follow at once, and fall as the buffer grows."""
    base: str | None = None
    """Buffer of the same shape that holds the value at the start."""


def declares(model: nn.Module, declaration: str) -> bool:
    """Return whether the class of a model itself makes a declaration."""
    return vars(type(model)).get(declaration) is True


def undeclared(model: nn.Module, declaration: Literal["takes_stacks", "takes_parts"]) -> list[str]:
    """Return the classes of a model and its submodules that lack a declaration, by name."""
    free = STACKED if declaration == "takes_stacks" else BY_SAMPLE
    classes = dict.fromkeys(type(module) for module in model.modules())
    lacking = [c for c in classes if c not in free and vars(c).get(declaration) is not True]
    return [cls.__name__ for cls in lacking]
