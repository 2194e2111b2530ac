"""Random tensors."""

import torch


def draw(*shape, seed=0, dtype=torch.float64):
    """Normal numbers that follow from a seed, whatever else is drawn."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
