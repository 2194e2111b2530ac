"""What a model class declares about itself, by class attributes.

``takes_stacks = True``: given a stack, whose parameters and buffers have a leading dimension of
replicas, the model gives each replica the bits that it gets alone. Such a model reduces over
``-1`` and ``-2``, never over ``0`` or everything. Without this declaration a run is a stack of one.

``takes_parts = True``: the model treats each sample of a batch by itself, draws no random numbers
and changes no state. Without this declaration a run trains on one device.

A declaration holds for the class whose body makes it. A subclass may compute something else, so it
declares anew.
"""

from collections.abc import Mapping, Set
from typing import Literal

from torch import nn

from implicit_em.models.activations import ELEMENTWISE

Declaration = Literal["takes_stacks", "takes_parts"]

_BOTH = {*ELEMENTWISE, nn.Sequential, nn.ModuleList, nn.ModuleDict}
OF_TORCH: Mapping[Declaration, Set[type[nn.Module]]] = {
    "takes_stacks": _BOTH,
    "takes_parts": _BOTH | {nn.Linear, nn.LayerNorm, nn.PReLU},
}
"""Classes of ``torch.nn`` that need no declaration."""


def undeclared(model: nn.Module, declaration: Declaration) -> list[str]:
    """Return the classes of a model and its submodules that lack a declaration, by name."""
    classes = {type(module): None for module in model.modules()}
    return [
        cls.__name__
        for cls in classes
        if cls not in OF_TORCH[declaration] and vars(cls).get(declaration) is not True
    ]
