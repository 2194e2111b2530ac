"""The schema of a run's configuration."""

import textwrap
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

MOST_THREADS = 1024


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
    normalize: Literal["none", "centre", "standard", "scale", "l2", "zca"] = "none"
    feature_dims: PositiveInt | None = None


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
    """Settings of every run; the groups may hold further keys."""

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


def validated(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration without Hydra's node as plain settings, or raise ``ConfigError``."""
    try:
        settings = to_plain(cfg)
        _Config.model_validate(settings)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: missing; write {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {one_line(error)}") from error
    except ValidationError as error:
        raise ConfigError(_describe(error)) from error
    return settings


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain containers with all interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{key}: missing"
    message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    message = message.partition(" or instance of ")[0]
    return f"{key}={textwrap.shorten(str(first['input']), 100, placeholder='...')}: {message}"
