"""Decoder-free sparse autoencoders derived from implicit EM.

The names below are the public interface; they are imported when first used, so that the command
line answers without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from implicit_em import losses
    from implicit_em.data import (
        ResidentDataModule,
        ResidentLoader,
        TensorDataModule,
        TorchvisionDataModule,
    )
    from implicit_em.features import feature_grid
    from implicit_em.loading import load
    from implicit_em.models import Encoder, SparseAutoencoder
    from implicit_em.modules import EncoderModule, SparseAutoencoderModule
    from implicit_em.objective import Objective, Term
    from implicit_em.probe import linear_probe
    from implicit_em.training import train

_HOMES = {
    "Encoder": "models",
    "EncoderModule": "modules",
    "Objective": "objective",
    "ResidentDataModule": "data",
    "ResidentLoader": "data",
    "SparseAutoencoder": "models",
    "SparseAutoencoderModule": "modules",
    "TensorDataModule": "data",
    "Term": "objective",
    "TorchvisionDataModule": "data",
    "feature_grid": "features",
    "linear_probe": "probe",
    "load": "loading",
    "train": "training",
}

__all__ = [
    "Encoder",
    "EncoderModule",
    "Objective",
    "ResidentDataModule",
    "ResidentLoader",
    "SparseAutoencoder",
    "SparseAutoencoderModule",
    "TensorDataModule",
    "Term",
    "TorchvisionDataModule",
    "feature_grid",
    "linear_probe",
    "load",
    "losses",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "losses":
        return import_module("implicit_em.losses")
    if name in _HOMES:
        return getattr(import_module(f"implicit_em.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
