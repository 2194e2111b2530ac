"""Data sets in memory, stores of activations, and checks of what is read."""

from implicit_em.base import lazy
from implicit_em.data.modules import ResidentDataModule, TorchvisionDataModule
from implicit_em.data.resident import Block, BlockLoader, ResidentLoader, as_unit_float, batches_of
from implicit_em.data.superposition import Superposition, SuperpositionDataModule, Truth
from implicit_em.data.tensors import TensorDataModule
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.statistics import Statistics, TokenFilter, statistics_of
from implicit_em.language.store import ActivationStore, Documents, Manifest, Shard

lazy.offer_submodules(__name__)
