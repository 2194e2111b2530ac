"""The check of a run before it trains: a dry step on eight samples, and what memory must hold."""

import inspect
import json
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from hydra.utils import get_class, instantiate
from torch.optim.lr_scheduler import ReduceLROnPlateau

from implicit_em.base.errors import ConfigError, nearest, one_line
from implicit_em.base.quiet import quieten
from implicit_em.codes import AT_A_TIME
from implicit_em.config.fingerprint import NEVER_DECIDING
from implicit_em.engine.em import EM
from implicit_em.engine.modules import (
    EnergyModule,
    build_objective,
    module_class,
    refusal_of_devices,
)
from implicit_em.engine.schedulers import (
    build_schedule,
    interval_of,
    is_scheduler,
    step_after_epoch,
)
from implicit_em.engine.sparse import largest_share
from implicit_em.engine.stack import BareReplica, Stack
from implicit_em.metrics.energies import CURVES
from implicit_em.models.linear import SharedInput
from implicit_em.training.spec import STEP_FLAGS, RunSpec

DERIVED_FLAGS = ("logger", "callbacks", "default_root_dir", "check_val_every_n_epoch")
"""Flags of ``pl.Trainer`` that follow from other settings."""
SAMPLES_TRIED = 8
WIDTH_TRIED = 81
"""Input width of the trial model: a square number that is rarely the number of units."""
TARGET_TRIED = 36
"""Width of a target that is not the input."""
WIDEST_TRIED = 2**14
"""Largest number of components of the trial model: the number that was asked for may be a typo."""
BY_SCHEMA = ("seed", "resume", *NEVER_DECIDING)
"""Groups of settings that the schema checks, and nothing here."""
WEIGHT_COPIES = 8
"""Weights, gradients, two moments, the stack, the start of the epoch, and two checkpoints."""
ENERGY_COPIES = 16
"""Largest number of tensors of the shape of a batch's energies in a step."""
INPUT_COPIES = 6
"""Number of tensors of the shape of a batch in a step with a decoder."""
_passed: set[str] = set()
"""Configurations that this process has checked."""


def widths_tried(spec: RunSpec) -> tuple[int, ...]:
    """Return the trial model's input width, and the width of a target that is not the input."""
    other = spec.settings["data"].get("target") is not None
    return (WIDTH_TRIED, TARGET_TRIED) if other else (WIDTH_TRIED,)


def check(spec: RunSpec, here: bool = True) -> None:
    """Raise ``ConfigError`` for a run that cannot be trained; nothing is loaded or written.

    The check builds the data module, the model for a narrow input, the objective, the optimizer
    and the Trainer. A few random samples are measured and trained on. Runs that differ only in the
    seed or logger are checked once.

    Args:
        spec: the run.
        here: whether this machine trains the run, and so must have its device and files.
    """
    relevant = {key: value for key, value in spec.settings.items() if key not in BY_SCHEMA}
    relevant["data"] = {**relevant["data"], "seed": None}
    key = json.dumps([relevant, here], default=str)
    if key in _passed:
        return
    trainer = _build_trainer(spec, here)
    with _refusing("data"):
        data: Any = get_class(spec.settings["data"]["_target_"])
    epochs = spec.settings["trainer"]["max_epochs"]
    if reason := data.refusal(spec.settings["data"], epochs, spec.takes_processes):
        raise ConfigError(reason)
    _check_callbacks(spec.settings)
    if here:
        with torch.random.fork_rng(devices=[]), _refusing("data", "data"):
            instantiate(spec.settings["data"])
    with torch.random.fork_rng(devices=[]):
        _dry_run(spec, trainer)
    _passed.add(key)


def _build_trainer(spec: RunSpec, here: bool) -> pl.Trainer:
    quieten()
    settings = spec.settings["trainer"]
    _check_keys("trainer", settings, pl.Trainer, STEP_FLAGS, ("self", *DERIVED_FLAGS))
    elsewhere: dict[str, Any] = (
        {} if here else {"accelerator": "cpu", "strategy": "auto", "devices": 1}
    )
    return spec.build_trainer(**elsewhere, logger=False, enable_checkpointing=False)


def _check_callbacks(settings: Mapping[str, Any]) -> None:
    allowed = [*(f"monitor/{name}" for name in CURVES), *_means_of_terms(settings)]
    for name, callback in settings["callbacks"].items():
        monitor = callback.get("monitor")
        if monitor is not None and monitor not in allowed:
            raise ConfigError(
                f"callbacks.{name}.monitor={monitor}: allowed are {', '.join(allowed)}; the loss "
                "itself is not: it cannot select a model, and the paper's has no lower bound"
            )
        with _refusing(f"callbacks.{name}", f"callbacks.{name}"):
            instantiate(callback)


def _means_of_terms(settings: Mapping[str, Any]) -> list[str]:
    loss = settings["loss"]
    return [f"train/{name}" for name, term in loss.items() if term.get("weight", 1) != 0]


def _dry_run(spec: RunSpec, trainer: pl.Trainer) -> None:
    """Measure a few random samples and train on them: each part refuses what it would run into."""
    choices = spec.choices or {}
    loss, model = (f"{g}={choices[g]}" if g in choices else g for g in ("loss", "model"))
    with _refusing("loss"):
        objective = build_objective(spec.settings["loss"])
    for name, term in objective.terms.items():
        own = ("weight", "warmup")
        _check_keys(f"loss.{name}", term.options, term.function, own, term.inputs)
    module = _build_module(spec, loss, model)
    optimizer = _build_optimizer(spec, module)
    batch_size = spec.settings["data"]["batch_size"]
    x = torch.rand(min(batch_size, SAMPLES_TRIED), sum(widths_tried(spec)))
    outputs = _measure(module, model, x)
    if reason := refusal_of_devices(module, trainer):
        raise ConfigError(f"trainer.devices={spec.settings['trainer']['devices']}: {reason}")
    with _refusing(loss):
        values = objective.values(outputs)
    _check_values(values, ())
    undefined = [name for name, value in values.items() if not value.isfinite()]
    if batch_size == 1 and undefined:
        raise ConfigError(
            f"data.batch_size=1: must be at least 2 for loss term {', '.join(undefined)}"
        )
    with _refusing("trainer", "trainer"):
        sparse = spec.settings["trainer"]["sparse"]
        takes_sparse_steps = largest_share(sparse, module, trainer.precision)
    for share in (0.0, 1.0) if takes_sparse_steps else (0.0,):
        with _refusing(f"{model} in training, with {loss}"):
            replica = BareReplica(module.model, module.objective, optimizer, sparse_up_to=share)
            found = Stack([replica]).evaluate(SharedInput(x[None], [1]), len(x))
        _check_values(dict(zip(values, found.values, strict=False)), (1,))


def _build_module(spec: RunSpec, loss: str, model: str) -> Any:
    """Build the model alone, then with its objective: the message names the one at fault."""
    settings = spec.settings["model"]
    if isinstance(word := settings.get("activation"), str):
        raise ConfigError(
            f"model.activation={word}: a group of its own; did you mean activation={word}?"
        )
    hidden, l0 = settings["hidden"], settings.get("l0")
    if hidden is not None and l0 is not None and l0 > hidden:
        raise ConfigError(f"model.l0={l0}: must be at most model.hidden={hidden}")
    tried = {key: min(settings[key], WIDEST_TRIED) for key in ("hidden", "l0") if settings.get(key)}
    spec = replace(spec, settings={**spec.settings, "model": settings | tried})
    with _refusing(model):
        module_class(settings["_target_"])
    if spec.l0 is not None and spec.settings["trainer"]["max_epochs"] == 0:
        raise ConfigError(f"model.l0={l0}: nothing is trained with trainer.max_epochs=0")
    widths = widths_tried(spec)
    with _refusing(model, "model", {spec.l0_argument: "l0"}):
        instantiate(spec.model_arguments(*widths))
    with _refusing(f"{loss} does not fit {model}", "model"):
        return spec.build_module(*widths)


def _build_optimizer(spec: RunSpec, module: EnergyModule) -> Any:
    """Build the optimizer and make a step; refuse a model or a schedule that does not fit it."""
    with _refusing("optimizer", "optimizer"):
        parameters = module.parameters()
        optimizer = instantiate(spec.settings["optimizer"], _partial_=True)(parameters)
        optimizer.step()
    if isinstance(optimizer, EM) and (reason := EM.refusal(module.model, module.objective)):
        raise ConfigError(f"optimizer=em: {reason}")
    if spec.settings["lr"]["schedule"]:
        _check_schedule(spec.settings, optimizer)
    return optimizer


def _check_schedule(settings: Mapping[str, Any], optimizer: Any) -> None:
    """Raise ``ConfigError`` for a schedule that does not fit the optimizer or the run."""
    schedule = settings["lr"]["schedule"]
    means = ["train/loss", *_means_of_terms(settings)]
    if is_scheduler(schedule):
        cls = get_class(schedule["_target_"])
        watches = issubclass(cls, ReduceLROnPlateau)
        own = ("interval", "monitor") if watches else ("interval",)
        _check_keys("lr.schedule", schedule, cls, own, ("optimizer",))
        if watches and (interval := schedule.get("interval", "epoch")) != "epoch":
            raise ConfigError(
                f"lr.schedule.interval={interval}: allowed is epoch for {cls.__name__}"
            )
        if (monitor := schedule.get("monitor", means[0])) not in means:
            raise ConfigError(f"lr.schedule.monitor={monitor}: allowed are {', '.join(means)}")
    calls = settings["trainer"]["max_epochs"] if interval_of(schedule) == "epoch" else 1
    with _refusing("lr.schedule", "lr.schedule"):
        scheduler = build_schedule(schedule, optimizer, calls)
        step_after_epoch(scheduler, schedule, dict.fromkeys(means, 0.0))


def _measure(module: EnergyModule, model: str, x: torch.Tensor) -> dict[str, Any]:
    """Return the tensors for loss terms; refuse a model that cannot be measured."""
    with _refusing(model):
        outputs = module.outputs(module.model, x)
    energies, units = outputs["energies"].shape[-1], module.model.weight.shape[-2]
    if energies != units:
        raise ConfigError(f"{model}: gives {energies} energies; its weight has {units} rows")
    with _refusing(f"{model} in testing"), torch.no_grad():
        module.test_step(x, 0)
        module.finals.compute()
    return outputs


def _check_values(values: Mapping[str, Any], leading: tuple[int, ...]) -> None:
    """Raise ``ConfigError`` for a loss term that does not reduce over samples and components."""
    for name, value in values.items():
        is_tensor = isinstance(value, torch.Tensor)
        if not is_tensor or value.shape != leading:
            kind = f"{type(value).__name__} (a term is a function, not a class)"
            found = f"the shape {tuple(value.shape)}" if is_tensor else f"a {kind}"
            raise ConfigError(
                f"loss.{name}: must return one number for each leading index of the energies, the "
                f"shape {leading} for energies of {len(leading) + 2} dimensions; it returns {found}"
            )


def _check_keys(
    where: str,
    settings: Mapping[str, Any],
    called: Callable[..., Any],
    own: Sequence[str],
    without: Collection[str],
) -> None:
    """Raise ``ConfigError`` for a key that is neither ``own`` nor a parameter of what is called.

    Parameters ``without`` are no settings.
    """
    parameters = inspect.signature(called).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    allowed = [*own, *(name for name in parameters if name not in without)]
    for key, value in settings.items():
        if key not in ("_target_", *allowed):
            raise ConfigError(f"{where}.{key}={value}: no such key; {nearest(key, allowed)}")


@contextmanager
def _refusing(
    subject: str, arguments: str | None = None, keys: Mapping[str | None, str] | None = None
) -> Iterator[None]:
    """Raise ``ConfigError`` in place of any error.

    ``arguments`` is the group whose keys are the arguments of what is built; ``keys`` has the keys
    of arguments that have another name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        if unknown := re.search(r"got an unexpected keyword argument '(\w+)'", str(error)):
            said = f"{subject.partition('=')[0]}.{unknown[1]}: no such key of {subject}"
            if unknown[1] == "out_features":  # of no key that is typed
                said = f"{subject}: it explains its input alone; allowed is data.target=null"
            raise ConfigError(said) from error
        message = one_line(error)
        name, equals, said = message.partition("=")
        if arguments and equals and name.isidentifier():
            raise ConfigError(f"{arguments}.{(keys or {}).get(name, name)}={said}") from error
        raise ConfigError(f"{subject}: {message}") from error


def memory_of(spec: RunSpec, in_features: int, out_features: int | None = None) -> int:
    """Return a rough number of bytes that training takes; see ``RunSpec.model_arguments``."""
    weights, components = _size_of(spec, in_features, out_features)
    batch = spec.settings["data"]["batch_size"]
    elements = WEIGHT_COPIES * weights
    elements += ENERGY_COPIES * batch * components
    elements += INPUT_COPIES * batch * (in_features + (out_features or 0))
    elements += 2 * min(batch, components) ** 2
    return 4 * elements


def refuse_what_memory_cannot_hold(
    spec: RunSpec, in_features: int, out_features: int | None = None
) -> None:
    """Raise ``ConfigError`` for a width whose weights and pre-activations exceed the memory.

    This is what a sparse step without active units takes. Most steps and optimizers take more.
    """
    weights, components = _size_of(spec, in_features, out_features)
    at_a_time = min(AT_A_TIME, spec.settings["data"]["batch_size"] * components)
    size = {"bf16-true": 2, "64-true": 8}.get(spec.settings["trainer"]["precision"], 4)
    needed = size * (2 * weights + at_a_time)
    on_cpu = spec.settings["trainer"]["accelerator"] == "cpu" or not torch.cuda.is_available()
    there = psutil.virtual_memory().total if on_cpu else torch.cuda.mem_get_info()[1]
    if needed > there:
        raise ConfigError(
            f"model.hidden={components}: training takes at least {needed / 1e9:,.1f} GB for inputs "
            f"of width {in_features} (weights, gradients, pre-activations); there are "
            f"{there / 1e9:,.1f} GB"
        )


def _size_of(spec: RunSpec, in_features: int, out_features: int | None) -> tuple[int, int]:
    """Return the number of parameters of the model, and of its components."""
    with torch.device("meta"):
        model = instantiate(spec.model_arguments(in_features, out_features))
    return sum(parameter.numel() for parameter in model.parameters()), model.weight.shape[-2]
