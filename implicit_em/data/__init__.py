"""Data modules and the loader that serves batches from memory."""

from implicit_em.data.modules import ResidentDataModule, TorchvisionDataModule
from implicit_em.data.resident import (
    Block,
    BlockLoader,
    ResidentLoader,
    as_unit_float,
    batches_of,
)

__all__ = [
    "Block",
    "BlockLoader",
    "ResidentDataModule",
    "ResidentLoader",
    "TorchvisionDataModule",
    "as_unit_float",
    "batches_of",
]
