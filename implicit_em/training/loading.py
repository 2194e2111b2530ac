"""The trained model as files: weights without pickle, and what is needed to rebuild it."""

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
    """Write ``model.safetensors`` and ``model.json``.

    Args:
        run: the run directory.
        model: the trained network.
        spec: its class (``_target_``) and arguments, modules among them in the same notation.
        sample_shape: of one input.

    """
    with whole(run.weights) as temporary:
        weights = {k: v.contiguous() for k, v in model.state_dict().items()}
        temporary.write_bytes(safetensors.torch.save(weights))
    write_json(run.model, {"schema": 1, "model": dict(spec), "sample_shape": list(sample_shape)})


def load(run_dir: str | Path, classes: Sequence[type[nn.Module]] = ()) -> nn.Module:
    """Rebuild the trained model of a run, in evaluation mode, on the CPU.

    Nothing is unpickled, and nothing is built but this package's models, the modules of
    ``torch.nn`` and the ``classes`` given.

    Args:
        run_dir: the run directory.
        classes: your own model and activation classes, where the run used any.

    Returns:
        An ``Encoder``, whose call gives energies ``(..., K)`` of inputs ``(..., D)`` scaled as in
        training, or a ``SparseAutoencoder``.

    Raises:
        FileNotFoundError: if the directory holds no trained model.
        ValueError: if the model needs a class that is not trusted, or the files are damaged.

    """
    run = RunDirectory(run_dir)
    known = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in classes}
    # Of our own classes no tensor is made before it is known to be of the weights' size.
    with nullcontext() if classes else torch.device("meta"):
        model = _build(run.read_model()["model"], known)
    load_weights(model, run)
    return model.eval()


def load_weights(model: nn.Module, run: RunDirectory) -> None:
    """Give a model the weights of a run, in their precision.

    Raises:
        FileNotFoundError: if the directory holds no weights.
        DamagedError: if they are damaged, or another model's.

    """
    content = run.weights.read_bytes()
    try:
        weights = safetensors.torch.load(content)
        dtype = next(value.dtype for value in weights.values() if value.is_floating_point())
        model.to(dtype).load_state_dict(weights, assign=True)
    except Exception as error:  # a damaged file may bring about any
        raise DamagedError(f"{run.weights} does not fit its model: {one_line(error)}") from error


def _build(spec: Mapping[str, Any], known: Mapping[str, type[nn.Module]]) -> nn.Module:
    target = str(spec.get("_target_"))
    package, _, name = target.rpartition(".")
    if target in known:
        cls: Any = known[target]
    elif package.split(".")[:2] == ["torch", "nn"]:
        cls = getattr(nn, name, None)
    elif package.split(".")[:2] == ["implicit_em", "models"]:
        cls = getattr(models, name, None)
    else:
        cls = None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(f"the model needs {target}: pass the class, load(..., classes=[{name}])")
    arguments = {
        key: _build(value, known) if isinstance(value, Mapping) and "_target_" in value else value
        for key, value in spec.items()
        if key != "_target_"
    }
    try:
        return cls(**arguments)
    except Exception as error:  # e.g. for an argument that it does not have
        raise DamagedError(f"the model's {target} cannot be built: {one_line(error)}") from error
