"""When a replica of a stack rounds as it does alone.

A replica gets the same bits in any company on a CPU with one thread, if the sizes obey these rules.
There are no such rules on other devices.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

LANES = 32
"""Largest number of elements that a vectorised loop of torch takes at a time: two AVX-512 vectors.

Other instructions compute what is left over at a tensor's end, and these instructions round ``exp``
and ``log`` differently. In a stack, the end of one replica lies in the middle of the tensor.
"""


def activations_fill_lanes(weight: Tensor, batch_sizes: Iterable[int]) -> bool:
    """Return whether the activations and products of a replica's ``(K, D)`` weight round as alone.

    The activations of each batch must fill lanes; in bfloat16, there are twice as many lanes. No
    factor of a product may be a vector, because a stack makes a matrix of a vector.
    """
    if weight.device.type != "cpu":
        return True
    components, width = weight.shape[-2:]
    sizes = set(batch_sizes)
    full = all(size * components % (2 * LANES) == 0 for size in sizes)
    return full and min(components, width, *sizes) > 1


def statistics_fill_lanes(outputs: Mapping[str, Tensor]) -> bool:
    """Return whether statistics over samples or components of a stack round as they do alone."""
    energies = outputs.get("energies")
    if energies is None or energies.device.type != "cpu":
        return True
    return all(size % LANES == 0 for size in energies.shape[-2:])


def parameters_fill_lanes(model: Any) -> bool:
    """Return whether a model's own operations on its parameters round as they do alone.

    A model has such operations if it has parameters outside its layers, or changes parameters
    around a step, as unit columns do. The number of components of such a model must fill lanes.
    """
    weight: Tensor = model.weight
    tensors = [*model.parameters(recurse=False), *model.buffers(recurse=False)]
    layers_alone = not (tensors or model.before_step or model.after_step)
    return layers_alone or weight.device.type != "cpu" or weight.shape[-2] % LANES == 0


def each_alone(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Apply a function such as ``torch.exp`` to each number, rounded as for this number alone."""
    lanes = values.unsqueeze(-1).expand(*values.shape, LANES).contiguous()
    return function(lanes)[..., 0]
