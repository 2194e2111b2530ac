"""The composed configuration: its schema, its check before anything trains, and what it builds."""

import inspect
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from implicit_em.base.errors import ConfigError, one_line
from implicit_em.config.mistakes import nearest

OWN_FLAGS = ("logger", "callbacks", "default_root_dir", "check_val_every_n_epoch")
"""Flags of ``pl.Trainer`` that follow from other settings: logger, callbacks, metrics_every."""
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "64-true")
OUR_FLAGS = ("threads", "compile", "gradient_clip_val", "gradient_clip_algorithm")
"""Keys of ``trainer`` that the training step sees to."""
MOST_DEVICES = MOST_THREADS = 1024
WIDTH_TRIED = 81
"""Of the inputs of the model that the check builds: a square, but no number of units as a rule."""
WIDEST_TRIED = 2**14
"""Most components of the model that the check builds: any number can be typed, not any built."""
CURVES = tuple(
    f"monitor/{name}" for name in ("dead_units", "redundancy", "responsibility_entropy", "density")
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Built(_Section):
    target: str = Field(alias="_target_")


class _Model(_Built):
    hidden: PositiveInt | None


class _Term(_Built):
    weight: Annotated[FiniteFloat, Field(ge=0)] = 1.0
    warmup: NonNegativeInt = 0


class _Rate(_Section):
    value: Annotated[FiniteFloat, Field(gt=0)]
    schedule: _Built | None


class _Data(_Built):
    batch_size: PositiveInt
    val_size: NonNegativeInt
    final: Literal["test", "validation"] = "test"


class _Trainer(_Section):
    max_epochs: NonNegativeInt
    threads: Annotated[int, Field(gt=0, le=MOST_THREADS)] | None
    compile: bool
    enable_progress_bar: bool
    gradient_clip_val: Annotated[FiniteFloat, Field(gt=0)] | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None


class _Checkpoint(_Section):
    model_config = ConfigDict(extra="forbid", strict=True)

    steps: PositiveInt | None
    minutes: Annotated[FiniteFloat, Field(gt=0)] | None


def _stays_inside(name: Any) -> Any:
    path = PurePath(str(name))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("must lead nowhere out of the run directory")
    return name


class _Logger(_Section):
    mode: Literal["online", "offline", "disabled"] | None = None
    name: Annotated[Any, AfterValidator(_stays_inside)] = None
    version: Annotated[Any, AfterValidator(_stays_inside)] = None
    timeout: Annotated[FiniteFloat, Field(gt=0)] | None = None


class _Config(_Section):
    """What every run is made of; each group may hold more keys than are checked here."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    probe: Literal["linear", "none"]
    metrics_every: PositiveInt | None
    data: _Data
    model: _Model
    loss: dict[str, _Term]
    optimizer: _Built
    lr: _Rate
    trainer: _Trainer
    callbacks: dict[str, _Built]
    logger: _Logger
    checkpoint: _Checkpoint
    resume: str | None
    overwrite: bool


def check(cfg: DictConfig, choices: Mapping[str, str] | None = None, here: bool = True) -> None:
    """Refuse a configuration that cannot be trained; nothing is loaded or written.

    Data module, model, objective, optimizer and Trainer are built once, the model for a narrow
    input, and the objective is computed on a few random samples, so that what they refuse
    themselves is refused here.

    Args:
        cfg: the composed configuration, without Hydra's own node.
        choices: the option chosen in each config group, for the message.
        here: whether the run will train on this machine, which then needs the device and the
            files asked for.

    Raises:
        ConfigError: with the first thing found.

    """
    try:
        plain = to_plain(cfg)
        _Config.model_validate(plain)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: missing; write {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {one_line(error)}") from error
    except ValidationError as error:
        raise ConfigError(_describe(error)) from error
    trainer = _check_trainer(plain, here)
    _check_callbacks(plain)
    if here:
        _check_data(plain)
    _dry_run(plain, choices or {}, trainer)


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain containers, interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def module_arguments(cfg: Mapping[str, Any], in_features: int) -> dict[str, Any]:
    """Return the LightningModule's arguments for a plain configuration and an input width."""
    return {
        "model": {**cfg["model"], "in_features": in_features},
        "loss": cfg["loss"],
        "optimizer": cfg["optimizer"],
        "schedule": cfg["lr"]["schedule"],
        "clip": _clip(cfg["trainer"]),
        "compiled": cfg["trainer"]["compile"],
    }


def _clip(trainer: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the function that clips gradients: a Trainer itself clips none of ours."""
    value = trainer.get("gradient_clip_val")
    if value is None:
        return None
    if trainer.get("gradient_clip_algorithm") == "value":
        return {"_target_": "torch.nn.utils.clip_grad_value_", "clip_value": value}
    return {"_target_": "torch.nn.utils.clip_grad_norm_", "max_norm": value}


def trainer_flags(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags of ``pl.Trainer``, without those that leave its own default.

    What is described by a ``_target_``, as a strategy may be, is built.
    """
    from hydra.utils import instantiate

    flags = {k: v for k, v in cfg["trainer"].items() if v is not None and k not in OUR_FLAGS}
    return instantiate(flags, _convert_="all")


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{key}: missing"
    message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    message = message.partition(" or instance of ")[0]
    return f"{key}={textwrap.shorten(str(first['input']), 100, placeholder='...')}: {message}"


def _check_trainer(cfg: Mapping[str, Any], here: bool) -> Any:
    import inspect

    import pytorch_lightning as pl

    from implicit_em.base.quiet import quieten

    quieten()
    allowed = [flag for flag in inspect.signature(pl.Trainer).parameters if flag not in OWN_FLAGS]
    with _refusing("trainer"):
        flags = trainer_flags(cfg)
    if (nodes := flags.get("num_nodes", 1)) != 1:
        raise ConfigError(f"trainer.num_nodes={nodes}: allowed is 1")
    if flags.pop("accumulate_grad_batches", 1) != 1:
        raise ConfigError(
            "trainer.accumulate_grad_batches: allowed is 1, as the statistics of the objective are "
            "those of a batch; data.batch_size makes it larger"
        )
    if (precision := flags.get("precision", "32-true")) not in PRECISIONS:
        raise ConfigError(
            f"trainer.precision={precision}: allowed are {', '.join(PRECISIONS)}; gradients are "
            "not scaled, as half precision would need"
        )
    for key, value in flags.items():
        if key not in allowed:
            raise ConfigError(f"trainer.{key}={value}: no such flag; {nearest(key, allowed)}")
    try:
        devices = int(flags.get("devices", 1))
    except (TypeError, ValueError, OverflowError):  # for Lightning to judge
        devices = 1
    if devices > MOST_DEVICES:  # Lightning would make a list of them
        raise ConfigError(f"trainer.devices={devices}: allowed are at most {MOST_DEVICES}")
    if not here:
        flags |= {"accelerator": "cpu", "strategy": "auto", "devices": 1}
    with _refusing("trainer"):
        return pl.Trainer(**flags, logger=False, enable_checkpointing=False)


def _check_callbacks(cfg: Mapping[str, Any]) -> None:
    from hydra.utils import instantiate

    terms = [f"train/{name}" for name, term in cfg["loss"].items() if term.get("weight", 1) != 0]
    allowed = [*CURVES, *terms]
    for name, callback in cfg["callbacks"].items():
        monitor = callback.get("monitor")
        if monitor is not None and monitor not in allowed:
            raise ConfigError(
                f"callbacks.{name}.monitor={monitor}: allowed are {', '.join(allowed)}; the loss "
                "itself is not: unbounded below, it selects no model"
            )
        with _refusing(f"callbacks.{name}"):
            instantiate(callback)


def _check_data(cfg: Mapping[str, Any]) -> None:
    import torch
    from hydra.utils import instantiate

    with torch.random.fork_rng(devices=[]), _refusing("data"):
        instantiate(cfg["data"])


def _dry_run(cfg: dict[str, Any], choices: Mapping[str, str], trainer: Any) -> None:
    import torch
    from hydra.utils import get_class, instantiate

    from implicit_em.engine.modules import build_objective, module_class, refusal_of_devices

    batch_size = cfg["data"]["batch_size"]
    if (hidden := cfg["model"]["hidden"]) is not None:
        cfg = {**cfg, "model": {**cfg["model"], "hidden": min(hidden, WIDEST_TRIED)}}
    loss, model = (_named(group, cfg, choices) for group in ("loss", "model"))
    with torch.random.fork_rng(devices=[]):
        with _refusing("loss"):
            objective = build_objective(cfg["loss"])
        _check_terms(cfg["loss"])
        with _refusing(model):
            cls = module_class(cfg["model"]["_target_"])
            own = inspect.signature(get_class(cfg["model"]["_target_"])).parameters.get("hidden")
        if hidden is None and own and own.default is not None:
            raise ConfigError("model.hidden=null: must be a whole number, greater than 0")
        with _refusing(model):
            instantiate({**cfg["model"], "in_features": WIDTH_TRIED})
        with _refusing(f"{loss} does not fit {model}"):
            module = cls(**module_arguments(cfg, WIDTH_TRIED))
        with _refusing("optimizer"):
            instantiate(cfg["optimizer"], _partial_=True)(module.parameters()).step()
        if cfg["lr"]["schedule"]:
            with _refusing("lr.schedule"):
                instantiate({**cfg["lr"]["schedule"], "progress": 0.5})
        with _refusing(model):
            x = torch.rand(min(batch_size, 8), WIDTH_TRIED)
            outputs = {"x": x, **module.outputs(module.model, x)}
            reason = refusal_of_devices(module, trainer)
        if reason:
            raise ConfigError(f"trainer.devices={cfg['trainer']['devices']}: {reason}")
        with _refusing(loss):
            _, parts = objective(outputs)
    undefined = [name for name, value in parts.items() if not value.isfinite()]
    if batch_size == 1 and undefined:
        raise ConfigError(
            f"data.batch_size=1: must be at least 2 for loss term {', '.join(undefined)}"
        )


def _check_terms(loss: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse an option that a term's function, which can be imported, does not have."""
    from hydra.utils import get_method

    for name, term in loss.items():
        parameters = inspect.signature(get_method(term["_target_"])).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            continue
        allowed = ["weight", "warmup", *(p.name for p in parameters if p.default is not p.empty)]
        known = {*allowed, "_target_", *(parameter.name for parameter in parameters)}
        for option, value in term.items():
            if option not in known:
                hint = nearest(option, allowed)
                raise ConfigError(f"loss.{name}.{option}={value}: no such key; {hint}")


def _named(group: str, cfg: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    return f"{group}={choices[group]}" if group in choices else group


@contextmanager
def _refusing(subject: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise ConfigError(f"{subject}: {one_line(error)}") from error
