"""What the training of a run takes of a machine's memory."""

from typing import Any

import psutil
import torch
from hydra.utils import instantiate
from torch import nn

from implicit_em.base.errors import ConfigError
from implicit_em.codes import AT_A_TIME
from implicit_em.training.spec import RunSpec

WEIGHT_COPIES = 8
"""Weights, gradients, two moments, the stack, the start of the epoch, and two checkpoints."""
ENERGY_COPIES = 16
"""Largest number of tensors of the shape of a batch's energies in a step."""
INPUT_COPIES = 6
"""Number of tensors of the shape of a batch in a step with a decoder."""


def memory_of(spec: RunSpec, in_features: int, out_features: int | None = None) -> int:
    """Return a rough number of bytes that training takes; see ``RunSpec.model_arguments``."""
    weights, components = _size_of(spec, in_features, out_features)
    batch = spec.settings["data"]["batch_size"]
    elements = WEIGHT_COPIES * weights
    elements += ENERGY_COPIES * batch * components
    elements += INPUT_COPIES * batch * (in_features + (out_features or 0))
    elements += 2 * min(batch, components) ** 2
    return 4 * elements


def refuse_what_memory_cannot_hold(
    spec: RunSpec, in_features: int, out_features: int | None = None
) -> None:
    """Raise ``ConfigError`` for a width whose weights and pre-activations exceed the memory.

    The number is that of a sparse step without active units. Most steps take more.
    """
    weights, components = _size_of(spec, in_features, out_features)
    moments = _moments_of(spec)
    at_a_time = min(AT_A_TIME, spec.settings["data"]["batch_size"] * components)
    size = {"bf16-true": 2, "64-true": 8}.get(spec.settings["trainer"]["precision"], 4)
    needed = size * ((2 + moments) * weights + at_a_time)
    on_cpu = spec.settings["trainer"]["accelerator"] == "cpu" or not torch.cuda.is_available()
    there = psutil.virtual_memory().total if on_cpu else torch.cuda.mem_get_info()[1]
    if needed > there:
        raise ConfigError(
            f"model.hidden={components}: training takes at least {needed / 1e9:,.1f} GB for inputs "
            f"of width {in_features} (weights, gradients, {moments} moments, pre-activations); "
            f"there are {there / 1e9:,.1f} GB"
        )


def _size_of(spec: RunSpec, in_features: int, out_features: int | None) -> tuple[int, int]:
    """Return the number of parameters of the model, and of its components."""
    with torch.device("meta"):
        model = instantiate(spec.model_arguments(in_features, out_features))
    return sum(parameter.numel() for parameter in model.parameters()), model.weight.shape[-2]


def _moments_of(spec: RunSpec) -> int:
    """Return the number of tensors that the optimizer keeps for each parameter, of its shape."""
    weight, bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    for parameter in (weight, bias):
        parameter.grad = torch.zeros_like(parameter)
    optimizer: Any = instantiate(spec.settings["optimizer"], _partial_=True)([weight, bias])
    optimizer.step()
    return sum(
        isinstance(value, torch.Tensor) and value.shape == weight.shape
        for value in optimizer.state[weight].values()
    )
