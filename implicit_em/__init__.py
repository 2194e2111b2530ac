"""Decoder-free sparse autoencoders derived from implicit EM.

The names below are the public interface. Each is imported on first use, because the command line
must answer before torch is loaded.
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
    from implicit_em.engine.modules import EncoderModule, SparseAutoencoderModule
    from implicit_em.language.steering import steer
    from implicit_em.losses import Objective, Term
    from implicit_em.metrics.feature_grid import feature_grid
    from implicit_em.metrics.probe import linear_probe
    from implicit_em.models import Encoder, SparseAutoencoder
    from implicit_em.trained.finished import Run
    from implicit_em.trained.loading import fit_decoder, load
    from implicit_em.training.run import train
    from implicit_em.viewer.exploring import explore, features

_NAMES = {
    "data": ("ResidentDataModule", "ResidentLoader", "TensorDataModule", "TorchvisionDataModule"),
    "engine.modules": ("EncoderModule", "SparseAutoencoderModule"),
    "language.steering": ("steer",),
    "losses": ("Objective", "Term"),
    "metrics.feature_grid": ("feature_grid",),
    "metrics.probe": ("linear_probe",),
    "models": ("Encoder", "SparseAutoencoder"),
    "trained.finished": ("Run",),
    "trained.loading": ("fit_decoder", "load"),
    "training.run": ("train",),
    "viewer.exploring": ("explore", "features"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = ["losses", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "losses":
        return import_module("implicit_em.losses")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"implicit_em.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
