"""Data sets in memory or in files, their batches, and checks of what is read."""

from implicit_em.data.modules import ResidentDataModule, TorchvisionDataModule
from implicit_em.data.resident import Block, BlockLoader, ResidentLoader, as_unit_float, batches_of
from implicit_em.data.superposition import Superposition, SuperpositionDataModule, Truth
from implicit_em.data.tensors import TensorDataModule
