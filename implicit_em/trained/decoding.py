"""Linear decoders of models that were trained without one."""

from os import PathLike
from pathlib import Path
from typing import Any

from implicit_em.data import ResidentDataModule
from implicit_em.metrics.reconstruction import RIDGE, fvu_of
from implicit_em.trained.loading import load
from implicit_em.training.decoding import BATCH, RidgeDecoder, both_sides, fit_ridge, measured


def fit_decoder(
    run: str | Path | Any, x: Any, ridge: float = RIDGE, target: Any = None
) -> RidgeDecoder:
    """Fit a linear decoder to a model that may have none, by ridge regression.

    With ``z`` the scaled energies, the weight of ``z`` is ``(mean z z^T + ridge I)^-1 mean z (x -
    mean x)^T``. ``metrics.ridge_decoder`` says how they are scaled: a unit's own scale and level do
    not matter, and a unit that few samples activate gets a small weight.

    Args:
        run: run directory, a ``Run``, or a model with ``encode``.
        x: samples to fit on, a tensor or array of shape ``(N, ...)``, or ``(..., D)`` for rows of
            the model's own width. Bytes are scaled to [0, 1]; other values must be those that the
            model takes.
        ridge: strength of the ridge, above 0; it weighs as much as ``ridge N`` activations.
        target: what the decoder is to explain, a tensor or array of shape ``(N, T)``; ``None`` for
            the samples. A transcoder needs it.

    Returns:
        The decoder. Its ``fvu(x)`` and ``explained_variance(x)`` measure it on any samples.

    Raises:
        FileNotFoundError: if the directory holds no trained model.
        ValueError: if the ridge is not above 0, there are fewer than two samples, the target of a
            transcoder is missing, or the model cannot be loaded.
    """
    model: Any = load(Path(run)) if isinstance(run, str | PathLike) else run
    return fit_ridge(model, x, ridge, target)


def own_fvu(model: Any, data: ResidentDataModule) -> float:
    """Return the FVU of final samples, as the model takes them, by the model's own decoder."""
    pairs = both_sides(model, measured(data), BATCH)
    return fvu_of((target, model.reconstruct(x)) for x, target in pairs)
