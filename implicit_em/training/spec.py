"""The specification of one run: the only place that turns settings into objects."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.profilers import PassThroughProfiler

from implicit_em.base.errors import ConfigError, raising
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.config.schema import Config, parsed
from implicit_em.data import ResidentDataModule
from implicit_em.distributed import GlobalBatch
from implicit_em.engine.modules import EnergyModule, module_class
from implicit_em.models.declarations import Steered

STEP_FLAGS = (
    *("threads", "compile", "sparse", "gradient_clip_val", "gradient_clip_algorithm"),
    "log_every_n_steps",
)
"""Keys of ``trainer`` that belong to the training step; ``pl.Trainer`` does not take them."""


@dataclass(frozen=True)
class RunSpec:
    """A run's settings: resolved, validated, and as plain data that can be pickled.

    Args:
        settings: composed configuration as plain containers.
        overrides: Hydra's overrides of the run.
        choices: chosen option of each config group.
        group: name of the sweep that the run belongs to, or ``None``.
        tags: the names of the model and of the experiment, by which a logger groups runs.
        hydra: Hydra's own settings as plain containers, or ``None`` outside Hydra.
    """

    settings: dict[str, Any]
    overrides: tuple[str, ...] = ()
    choices: Mapping[str, str] | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    hydra: Any = None

    @classmethod
    def of(cls, cfg: DictConfig, hydra: DictConfig | None = None) -> "RunSpec":
        """Make the specification from a composed configuration, whose ``hydra`` node is ignored.

        If Hydra runs the job, ``hydra`` is its own node.

        Raises:
            ConfigError: if a setting is missing, cannot be resolved, or is not allowed.
        """
        spec = cls.of_settings(parsed(cfg, Config)[0])
        if hydra is None:
            return spec
        choices = dict(hydra.runtime.choices)
        experiment = choices.get("experiment")
        return replace(
            spec,
            overrides=tuple(hydra.overrides.task),
            choices=choices,
            group=Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else None,
            tags=(*spec.tags, *([experiment] if experiment else [])),
            hydra=OmegaConf.to_container(hydra),
        )

    @classmethod
    def of_settings(cls, settings: dict[str, Any]) -> "RunSpec":
        """Make the specification from settings that were validated earlier."""
        model = settings["model"]["_target_"].rpartition(".")[2]
        return cls(settings, tags=(model,))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the settings that affect results."""
        return config_fingerprint(self.settings)

    @cached_property
    def identity(self) -> str:
        """Hash that does not depend on the number of epochs; it marks a run's checkpoints."""
        trainer = {**self.settings["trainer"], "max_epochs": None}
        return config_fingerprint({**self.settings, "trainer": trainer})

    def has_made(self, metrics: Mapping[str, Any]) -> bool:
        """Return whether the content of a ``metrics.json`` belongs to this run."""
        return metrics.get("config_fingerprint") == self.fingerprint

    @property
    def takes_processes(self) -> bool:
        """Whether several processes train the run, each on a part of every batch."""
        strategy = self.settings["trainer"]["strategy"]
        cls = get_class(strategy["_target_"]) if isinstance(strategy, Mapping) else object
        return issubclass(cls, GlobalBatch)

    @property
    def l0(self) -> float | None:
        """Number of active units that a controller aims at; ``None`` without one."""
        return None if self.l0_argument else self.settings["model"].get("l0")

    @property
    def l0_argument(self) -> str | None:
        """Argument of the model that ``model.l0`` sets; ``None`` if a controller aims at it."""
        cls: Any = get_class(self.settings["model"]["_target_"])
        steered: Steered | None = cls.steered
        return None if steered is None or steered.base else steered.name

    def build_data(self) -> ResidentDataModule:
        """Return the data module after its data are read, or raise ``ConfigError``."""
        expected = (OSError, RuntimeError, ValueError, TypeError, InstantiationException)
        with raising(ConfigError, "data", *expected, is_group=True):
            data: ResidentDataModule = instantiate(self.settings["data"])
            data.prepare_data()
            data.setup()
        return data

    def build_module(self, in_features: int, out_features: int | None = None) -> EnergyModule:
        """Return a new, untrained LightningModule; see ``model_arguments``."""
        trainer = self.settings["trainer"]
        return module_class(self.settings["model"]["_target_"])(
            model=self.model_arguments(in_features, out_features),
            loss=self.settings["loss"],
            optimizer=self.settings["optimizer"],
            schedule=self.settings["lr"]["schedule"],
            clip=_clip(trainer),
            compiled=trainer["compile"],
            l0=self.l0,
            sparse=trainer["sparse"],
        )

    def model_arguments(self, in_features: int, out_features: int | None = None) -> dict[str, Any]:
        """Return the model's class (``_target_``) and arguments.

        Args:
            in_features: width D of the inputs.
            out_features: width T of a target that is not the input; ``None`` without one.

        Raises:
            ConfigError: if the settings have a key of their own for a width, or for the argument
                that ``model.l0`` sets.
        """
        settings, name = {**self.settings["model"]}, self.l0_argument
        for width in {"in_features", "out_features"} & settings.keys():
            raise ConfigError(f"model.{width}={settings[width]}: the data decide it; leave it out")
        if name in settings:
            raise ConfigError(
                f"model.{name}={settings[name]}: its key is model.l0; leave out model.{name}"
            )
        if name and "l0" in settings:
            settings[name] = settings["l0"]
        settings.pop("l0", None)
        target = {} if out_features is None else {"out_features": out_features}
        return {**settings, "in_features": in_features, **target}

    def build_trainer(self, plugins: Sequence[Any] = (), **arguments: Any) -> pl.Trainer:
        """Return a Trainer, for which ``arguments`` take precedence over the settings.

        A flag that Lightning refuses, or a device that this machine lacks, raises ``ConfigError``.
        """
        defaults: dict[str, Any] = {"profiler": NoProfiler(), "plugins": list(plugins)}
        defaults["log_every_n_steps"] = 0  # Lightning's own
        if self.settings["trainer"]["strategy"] == "auto":
            # Also on Slurm, where only submitit may put a job back into the queue.
            defaults["plugins"].append(LightningEnvironment())
        with raising(ConfigError, "trainer", Exception):
            given = {k: v for k, v in self.settings["trainer"].items() if v is not None}
            flags = instantiate(
                {k: v for k, v in given.items() if k not in STEP_FLAGS}, _convert_="all"
            )
            defaults["plugins"] += flags.pop("plugins", [])
            return pl.Trainer(**defaults | flags | arguments)


class NoProfiler(PassThroughProfiler):
    """Profiler that measures nothing, without the thirty generators a step of Lightning's own."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        """Return a context that does nothing."""
        return self._nothing


def _clip(trainer: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the function that clips gradients: a Trainer does not in manual optimization."""
    value = trainer["gradient_clip_val"]
    if value is None:
        return None
    if trainer["gradient_clip_algorithm"] == "value":
        return {"_target_": "torch.nn.utils.clip_grad_value_", "clip_value": value}
    return {"_target_": "torch.nn.utils.clip_grad_norm_", "max_norm": value}
