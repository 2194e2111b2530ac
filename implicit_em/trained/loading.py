"""The files of a trained model: weights without pickle, and a description to rebuild the model."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch
from hydra.utils import get_class
from torch import nn

from implicit_em import models
from implicit_em.base.errors import ConfigError, DamagedError, MissingError, raising
from implicit_em.base.files import read_bytes
from implicit_em.config.schema import to_plain
from implicit_em.models.activations import ELEMENTWISE
from implicit_em.models.normalizing import Normalizer, taking_raw
from implicit_em.trained.foreign import is_foreign, read_foreign
from implicit_em.trained.hub import FORM
from implicit_em.training.decoding import RidgeDecoder, fit_ridge
from implicit_em.training.directory import STATISTICS, RunDirectory

MODELS: dict[str, Any] = {
    f"implicit_em.models.{name}": cls
    for name, cls in vars(models).items()
    if isinstance(cls, type) and hasattr(cls, "encode")
}
"""Models that ``load`` builds."""
ACTIVATIONS: dict[str, Any] = {
    **{f"torch.nn.{cls.__name__}": cls for cls in (*ELEMENTWISE, nn.PReLU, nn.RReLU)},
    "implicit_em.models.Abs": models.Abs,
}
"""Activations that ``load`` builds. With some arguments, other classes of torch take for ever."""


READING = ("read_sweeps", "refit")
"""Arguments of a model that change how its codes are read, and no weights."""


def load(
    run_dir: str | Path, classes: Sequence[type[nn.Module]] = (), **reading: int | None
) -> nn.Module:
    """Rebuild the trained model of a run, in evaluation mode, on the CPU.

    Nothing is unpickled. Only this package's models, elementwise activations of ``torch.nn`` and
    the given ``classes`` are built. Weights are not read if their file is longer or shorter than
    its header says.

    Args:
        run_dir: the run directory; a folder of SAELens or of dictionary_learning; or such a folder
            on the Hugging Face hub, ``hub:OWNER/NAME[@REVISION][:FOLDER]``.
        classes: your own model and activation classes, if the run used any.
        reading: ``read_sweeps`` or ``refit`` of a run's model that can sweep, in place of those
            that it was trained with; see ``models.sweeps.Swept``.

    Returns:
        The model, for floating-point inputs ``(..., D)``; bytes must be scaled to [0, 1]. It
        converts inputs to its dtype. Its parameters need no gradients; ``model.requires_grad_()``
        makes them trainable. ``model.encode(x)`` returns the energies ``(..., K)`` of an
        ``Encoder``, or the hidden activations of a ``SparseAutoencoder``. ``model.reconstruct(x)``
        returns reconstructions ``(..., D)``, or raises if the model has none; see
        ``fit_decoder``. Calling an ``Encoder`` encodes, calling a ``SparseAutoencoder``
        reconstructs; ``repr(model)`` says which. If the run normalised its
        samples, the model takes raw ones: the normaliser is folded into the model's weights, or a
        ``models.normalizing.Normalized`` holds both.

    Raises:
        FileNotFoundError: if the directory holds no trained model.
        ValueError: if the model needs a class that is not trusted, it cannot be read in that way,
            or the files are damaged.
    """
    if not all(isinstance(cls, type) for cls in classes):  # two names, as SAELens takes them
        raise ConfigError(f"{classes}: no classes; on the Hugging Face hub: {FORM}, in one")
    if is_foreign(run_dir):
        return read_foreign(run_dir, reading).model.requires_grad_(False)
    if not Path(run_dir).exists():
        raise MissingError(f"{run_dir}: no such directory; on the Hugging Face hub: {FORM}")
    model, normalizer = load_as_trained(run_dir, classes, reading)
    raw = model if normalizer is None else taking_raw(model, normalizer).eval()
    return raw.requires_grad_(False)


def fit_decoder(
    run: str | Path | Any,
    x: Any,
    ridge: float | None = None,
    target: Any = None,
    held: Any = None,
) -> RidgeDecoder:
    """Fit a linear decoder to a model that may have none, by ridge regression.

    The ridge shrinks the decoder's difference from the model's own decoder or, if it has none, its
    weight. Its strength is chosen from ``STRENGTHS`` on samples that are held out. The model's own
    decoder is a candidate, of infinite strength, so the fitted one is never worse on the samples of
    ``held``. Without them, a fifth of ``x`` is held out for the choice, and the decoder of
    the chosen strength is fitted to all of ``x``. There its squared error is at most the own
    decoder's.
    ``metrics.reconstruction.ridge_decoder`` gives the formula and the scale of a unit.

    Args:
        run: run directory, a ``Run``, or a model with ``encode``.
        x: samples to fit on, a tensor or array of shape ``(N, ...)``, or ``(..., D)`` for rows of
            the model's own width. Bytes are scaled to [0, 1]; other values must be as the model
            takes them.
        ridge: strength of the ridge, above 0; it weighs as much as ``ridge N`` activations.
            ``None`` for a choice, which the decoder's ``ridge`` tells.
        target: what the decoder is to explain, a tensor or array of shape ``(N, T)``; ``None`` for
            the samples. A transcoder needs it.
        held: samples ``(M, ...)`` by which the strength is chosen; ``None`` for a fifth of ``x``.

    Returns:
        The decoder. Its ``fvu(x)`` and ``explained_variance(x)`` measure it on any samples.

    Raises:
        FileNotFoundError: if the directory holds no trained model.
        ValueError: if the ridge is not above 0 and finite, or given with ``held``; if there are
            fewer than two samples, the target of a transcoder is missing, or the model cannot be
            loaded.
    """
    model: Any = load(Path(run)) if isinstance(run, str | PathLike) else run
    return fit_ridge(model, x, ridge, target, held)


def load_as_trained(
    run_dir: str | Path,
    classes: Sequence[type[nn.Module]] = (),
    reading: Mapping[str, int | None] = MappingProxyType({}),
) -> tuple[nn.Module, Normalizer | None]:
    """Rebuild a model as ``load`` does, but for normalised samples; return their normaliser, too.

    These are the samples that the run's data module gives.
    """
    run = RunDirectory(run_dir)
    paths = {_public_name(f"{cls.__module__}.{cls.__qualname__}"): cls for cls in classes}
    own = {path: cls for path, cls in paths.items() if path not in MODELS | ACTIVATIONS}
    spec = run.read_model()["model"]
    if unknown := reading.keys() - (set(READING) & spec.keys()):
        name = spec["_target_"].rpartition(".")[2]
        raise ConfigError(
            f"{', '.join(sorted(unknown))}: changes nothing in how codes of {name} are read"
        )
    # On "meta" no tensor takes memory, however large the file claims it is.
    device = nullcontext() if own else torch.device("meta")
    with raising(DamagedError, f"{run.model} cannot be built", Exception), device:
        model = _build({**spec, **reading}, MODELS | own, ACTIVATIONS | own)
    normalizer = load_weights(model, run)
    return model.eval(), normalizer


def load_trusted(
    run: RunDirectory, reading: Mapping[str, int | None] = MappingProxyType({})
) -> tuple[Any, Normalizer | None]:
    """Rebuild a model as ``load_as_trained`` does, with the classes that the run's settings name.

    Raises:
        ConfigError: if the run is not finished, or a class cannot be imported.
    """
    config = to_plain(run.read_config())
    run.finished_metrics()
    with raising(ConfigError, f"{run.config}: model", Exception):
        parts = [config["model"], config["model"].get("activation")]
        classes = [get_class(part["_target_"]) for part in parts if part]
    return load_as_trained(run.path, classes, reading)


def load_weights(model: nn.Module, run: RunDirectory) -> Normalizer | None:
    """Load a run's weights into a model, which takes their dtype, or raise ``DamagedError``.

    Returns:
        The normaliser of the samples that the weights are for, if there is one.
    """
    description = run.read_model()
    option, arguments = description.get("normalize"), description["model"]
    width = arguments.get("in_features", 0) + (arguments.get("out_features") or 0)
    content = read_bytes(run.weights)
    # A damaged file may raise anything.
    with raising(DamagedError, f"{run.weights} does not fit its model", Exception):
        weights = safetensors.torch.load(content)
        normalizer = None
        if option is not None:
            tensors = (weights.pop(f"{STATISTICS}{name}", None) for name in ("mean", "factor"))
            normalizer = Normalizer(option, *tensors)
            if normalizer.mean is not None and len(normalizer.mean) != width:
                raise ValueError(f"statistics of {len(normalizer.mean)} values, of {width}")
        dtype = next(value.dtype for value in weights.values() if value.is_floating_point())
        model.to(dtype).load_state_dict(weights, assign=True)
    return normalizer


def _build(spec: Mapping[str, Any], allowed: Mapping[str, Any], within: Mapping[str, Any]) -> Any:
    """Build one of the allowed classes, whose arguments may be modules of the classes within."""
    name = str(spec.get("_target_"))
    if (cls := allowed.get(_public_name(name))) is None:
        short = name.rpartition(".")[2]
        raise ConfigError(f"the model needs {name}: pass the class, load(..., classes=[{short}])")
    arguments = {
        key: _build(value, within, within) if isinstance(value, Mapping) else value
        for key, value in spec.items()
        if key != "_target_"
    }
    return cls(**arguments)


def _public_name(path: str) -> str:
    """Return the path of a class of torch or of this package as the docs write it."""
    for home in ("torch.nn", "implicit_em.models"):
        if path.startswith(f"{home}."):
            return f"{home}.{path.rpartition('.')[2]}"
    return path
