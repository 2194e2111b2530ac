"""The schema of a run's configuration."""

from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from implicit_em.base.errors import ConfigError
from implicit_em.base.validation import first_mistake
from implicit_em.config.composing import key_of, typed, unresolved

Schema = TypeVar("Schema", bound=BaseModel)

Positive = Annotated[FiniteFloat, Field(gt=0)]
Share = Annotated[FiniteFloat, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Threads = Annotated[int, Field(gt=0, le=1024)]
MOST_DEVICES = 1024


class Section(BaseModel, extra="allow", strict=True):
    """A group of settings, which may hold further keys."""


class FixedSection(Section, extra="forbid"):
    """A group of settings that holds no further keys, and does not change."""

    model_config = ConfigDict(frozen=True)


class _Built(Section):
    target: str = Field(alias="_target_")


class _Model(_Built):
    hidden: PositiveInt | None
    l0: Positive | None = None


class _Term(_Built):
    weight: Annotated[FiniteFloat, Field(ge=0)] = 1.0
    warmup: NonNegativeInt = 0


class _Schedule(_Built):
    interval: Literal["epoch", "step"] = "epoch"
    monitor: str = "train/loss"


class _Rate(Section):
    value: Positive
    schedule: _Schedule | None


class _Data(_Built):
    batch_size: PositiveInt
    val_size: NonNegativeInt
    seed: NonNegativeInt = 0
    drop_last: bool = False


def _as_word(switch: Any) -> Any:
    """Return on or off for a bool: a YAML file takes these words for true and false."""
    return ("off", "on")[switch] if isinstance(switch, bool) else switch


def _counts_steps(every: Any) -> Any:
    if every != "auto" and (type(every) is not int or every < 0):
        raise ValueError("should be auto or a whole number from 0 on")
    return every


def _few(devices: Any) -> Any:
    if str(devices).isdecimal() and int(devices) > MOST_DEVICES:  # Lightning would list all
        raise ValueError(f"should be at most {MOST_DEVICES}")
    return devices


class _Trainer(Section):
    max_epochs: NonNegativeInt
    threads: Threads | None
    compile: bool
    sparse: Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_word)]
    enable_progress_bar: bool
    log_every_n_steps: Annotated[Any, AfterValidator(_counts_steps)]
    accelerator: Any
    strategy: Any
    devices: Annotated[Any, AfterValidator(_few)]
    num_nodes: Literal[1]
    accumulate_grad_batches: Literal[1] = 1  # the objective is computed over a whole batch
    # Half precision would need gradients to be scaled.
    precision: Literal["32-true", "bf16-mixed", "bf16-true", "64-true"]
    gradient_clip_val: Positive | None
    gradient_clip_algorithm: Literal["norm", "value"] | None


class _Checkpoint(FixedSection):
    epochs: PositiveInt = 1
    steps: PositiveInt | None
    minutes: Positive | None


def _stays_inside(name: Any) -> Any:
    path = PurePath(str(name))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("must lead nowhere out of the run directory")
    return name


class _Logger(Section):
    mode: Literal["online", "offline", "disabled"] | None = None
    name: Annotated[Any, AfterValidator(_stays_inside)] = None
    version: Annotated[Any, AfterValidator(_stays_inside)] = None


def _is_complete(logger: _Logger) -> _Logger:
    if logger.model_extra != {} and "_target_" not in (logger.model_extra or {}):
        raise ValueError(
            "there is no logger to have settings; choose one, such as logger=tensorboard"
        )
    return logger


class Config(Section):
    """Settings of every run; the groups may hold further keys."""

    seed: Seed
    probe: Literal["linear", "none"]
    metrics_every: PositiveInt | None
    data: _Data
    model: _Model
    loss: dict[str, _Term]
    optimizer: _Built
    lr: _Rate
    trainer: _Trainer
    callbacks: dict[str, _Built]
    logger: Annotated[_Logger, AfterValidator(_is_complete)]
    checkpoint: _Checkpoint
    picture: bool
    resume: str | None
    overwrite: bool


def parsed(cfg: DictConfig, schema: type[Schema]) -> tuple[dict[str, Any], Schema]:
    """Return a configuration as plain settings and by its schema, or raise ``ConfigError``."""
    try:
        settings = to_plain(cfg)
        return settings, schema.model_validate(settings)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: missing; write {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(unresolved(error)) from error
    except ValidationError as error:
        raise ConfigError(first_mistake(error, schema)) from error


def unread(cfg: DictConfig) -> list[str]:
    """Return the typed overrides that add a key that nothing reads.

    Args:
        cfg: composed configuration with Hydra's own node.
    """
    added = [line for line in typed(cfg) if line.startswith("+")]
    if not added:
        return []
    read = {*Config.model_fields, *(f"lr.{key}" for key in _Rate.model_fields)} - {"lr"}
    text = OmegaConf.to_yaml(cfg)
    lines = []
    for line in added:
        key = key_of(line)
        first, _, rest = key.partition(".")
        name = f"lr.{rest.partition('.')[0]}" if first == "lr" else first
        if not (name in read or key in cfg.hydra.runtime.choices or f"${{{name}" in text):
            lines.append(line)
    return lines


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain containers, resolved, without Hydra's own node."""

    def plain(value: Any) -> Any:
        if not OmegaConf.is_config(value):
            return value
        return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)

    return {str(key): plain(cfg[key]) for key in cfg if key != "hydra"}
