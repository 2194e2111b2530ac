"""What depends on the device of a tensor: autocast, and whether the host waits for a copy."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def autocasts(tensor: Tensor) -> bool:
    """Return whether autocast is on for products of a tensor; some devices have none."""
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast: products are as precise as their factors."""
    if autocasts(tensor):
        return torch.autocast(tensor.device.type, enabled=False)
    return nullcontext()


def numbers_like(
    tensor: Tensor, numbers: float | Sequence[Any], dtype: torch.dtype | None = None
) -> Tensor:
    """Return numbers on the device of a tensor, without waiting for it; by default in its dtype."""
    return torch.tensor(numbers, dtype=dtype or tensor.dtype).to(tensor.device, non_blocking=True)
