"""The class and arguments of a module, in Hydra's notation, as a checkpoint holds them."""

import inspect
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from implicit_em.base.errors import ConfigError, one_line
from implicit_em.base.settings import differences, listed
from implicit_em.models.model import Model

Plain = bool | int | float | str | None


def describe(model: nn.Module) -> dict[str, Any]:
    """Return the ``_target_`` and arguments of a model and of its activation.

    Raises:
        ConfigError: if a model that is built from them is not like this one.
    """
    subject = f"model: this {type(model).__name__} cannot be built again"
    hint = "give its arguments as a dictionary"
    try:
        spec = _spec_of(model)
        with torch.random.fork_rng(devices=[]):
            again = instantiate(spec)
    except Exception as error:
        raise ConfigError(f"{subject}: {one_line(error)}; {hint}") from error
    if found := differences(_facts(again), _facts(model)):
        raise ConfigError(f"{subject} from its arguments: {listed(found)}; {hint}")
    return spec


def _spec_of(module: nn.Module) -> dict[str, Any]:
    cls = type(module)
    parameters = inspect.signature(cls).parameters
    if isinstance(module, Model):
        positional, by_name = module.made_with
        arguments = dict(zip(parameters, positional, strict=False)) | by_name
    else:  # torch's activations keep their arguments as attributes
        arguments = {name: getattr(module, name) for name in parameters if hasattr(module, name)}
    spec = {name: _plain(name, value) for name, value in arguments.items()}
    return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **spec}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, nn.Module):
        return _spec_of(value)
    if not isinstance(value, Plain):
        raise ValueError(
            f"{name}: a {type(value).__name__}; allowed are numbers, words and modules"
        )
    return value


def _facts(model: nn.Module) -> dict[str, Any]:
    """Return what two models with the same arguments share, whatever their weights."""
    facts: dict[str, Any] = {name: tuple(v.shape) for name, v in model.state_dict().items()}
    for name, part in model.named_modules():
        facts[name] = type(part).__name__
        own = {key: value for key, value in vars(part).items() if isinstance(value, Plain)}
        facts |= {f"{name}.{key}".lstrip("."): own[key] for key in own.keys() - {"training"}}
    return facts
