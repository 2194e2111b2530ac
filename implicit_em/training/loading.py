"""The files of a trained model: weights without pickle, and a description to rebuild it."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from implicit_em import models
from implicit_em.base.errors import DamagedError, one_line
from implicit_em.base.files import whole, write_json
from implicit_em.training.directory import RunDirectory


def save_model(
    run: RunDirectory, model: nn.Module, spec: Mapping[str, Any], sample_shape: Sequence[int]
) -> None:
    """Write ``model.safetensors``, and ``model.json`` with the class and arguments in ``spec``."""
    with whole(run.weights) as temporary:
        weights = {k: v.contiguous() for k, v in model.state_dict().items()}
        temporary.write_bytes(safetensors.torch.save(weights))
    write_json(run.model, {"schema": 1, "model": dict(spec), "sample_shape": list(sample_shape)})


def load(run_dir: str | Path, classes: Sequence[type[nn.Module]] = ()) -> nn.Module:
    """Rebuild the trained model of a run, in evaluation mode, on the CPU.

    Nothing is unpickled. Only this package's models, modules of ``torch.nn`` and the given
    ``classes`` are built.

    Args:
        run_dir: the run directory.
        classes: your own model and activation classes, if the run used any.

    Returns:
        The model, for inputs ``(..., D)`` that are floating point and scaled as in training. They
        are converted to the model's dtype. ``model.encode(x)`` returns the energies ``(..., K)``
        of an ``Encoder``, or the hidden activations of a ``SparseAutoencoder``.
        ``model.reconstruct(x)`` returns reconstructions ``(..., D)``. Calling an ``Encoder``
        encodes, calling a ``SparseAutoencoder`` reconstructs; ``repr(model)`` says which.

    Raises:
        FileNotFoundError: if the directory holds no trained model.
        ValueError: if the model needs a class that is not trusted, or the files are damaged.
    """
    run = RunDirectory(run_dir)
    known = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in classes}
    # On "meta" no tensor takes memory, however large the file claims it is.
    with nullcontext() if classes else torch.device("meta"):
        model = _build(run.read_model()["model"], known)
    load_weights(model, run)
    return model.eval()


def load_weights(model: nn.Module, run: RunDirectory) -> None:
    """Load a run's weights into a model, which takes their dtype, or raise ``DamagedError``."""
    content = run.weights.read_bytes()
    try:
        weights = safetensors.torch.load(content)
        dtype = next(value.dtype for value in weights.values() if value.is_floating_point())
        model.to(dtype).load_state_dict(weights, assign=True)
    except Exception as error:  # a damaged file may raise anything
        raise DamagedError(f"{run.weights} does not fit its model: {one_line(error)}") from error


def _build(spec: Mapping[str, Any], known: Mapping[str, type[nn.Module]]) -> nn.Module:
    target = str(spec.get("_target_"))
    package, _, name = target.rpartition(".")
    trusted: Any = {("torch", "nn"): nn, ("implicit_em", "models"): models}
    home = trusted.get(tuple(package.split(".")[:2]))
    cls = known.get(target) or getattr(home, name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(f"the model needs {target}: pass the class, load(..., classes=[{name}])")
    arguments = {
        key: _build(value, known) if isinstance(value, Mapping) and "_target_" in value else value
        for key, value in spec.items()
        if key != "_target_"
    }
    try:
        return cls(**arguments)
    except Exception as error:  # e.g. an argument that the class does not have
        raise DamagedError(f"the model's {target} cannot be built: {one_line(error)}") from error
