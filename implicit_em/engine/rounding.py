"""When a replica of a stack rounds as it does alone.

A replica gets the same bits in any company on a CPU with one thread, if the sizes obey these rules.
On other devices they ask for nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

LANES = 32
"""Elements that a vectorised loop of torch takes at a time, at most: two AVX-512 vectors.

Other instructions compute what is left over at a tensor's end, and they round ``exp`` and ``log``
differently. In a stack, the end of one replica lies in the middle of the tensor.
"""


def activations_fill_lanes(weight: Tensor, batch_sizes: Iterable[int]) -> bool:
    """Return whether the activations and matrix products of a step round as they do alone.

    The activations of each batch must fill their lanes, of which bfloat16 has twice as many. No
    product may be one with a vector, as a stack computes that as a product with a matrix.

    Args:
        weight: encoder matrix of one replica, shape ``(K, D)``.
        batch_sizes: number of samples in each batch of the block.

    """
    if weight.device.type != "cpu":
        return True
    components, width = weight.shape[-2:]
    sizes = set(batch_sizes)
    return min(components, width, *sizes) > 1 and all(
        size * components % (2 * LANES) == 0 for size in sizes
    )


def statistics_fill_lanes(outputs: Mapping[str, Tensor]) -> bool:
    """Return whether statistics over samples or components round as they do alone.

    Args:
        outputs: tensors that the terms of the objective take; ``energies`` of shape ``(R, B, K)``.

    """
    energies = outputs.get("energies")
    if energies is None or energies.device.type != "cpu":
        return True
    return all(size % LANES == 0 for size in energies.shape[-2:])


def parameters_fill_lanes(model: nn.Module) -> bool:
    """Return whether what a model does with its parameters, beside its layers, rounds as alone.

    This concerns models with parameters or buffers outside their layers, and those that change
    their parameters around a step, as unit columns do. Their number of components must fill lanes.

    Args:
        model: one replica, whose ``weight`` has shape ``(K, D)``.

    """
    weight: Any = model.weight
    tensors = [*model.parameters(recurse=False), *model.buffers(recurse=False)]
    layers_alone = not (tensors or hasattr(model, "before_step") or hasattr(model, "after_step"))
    return layers_alone or weight.device.type != "cpu" or weight.shape[-2] % LANES == 0
