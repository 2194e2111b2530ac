"""The runs of a study, composed from the sweep axes in ``conf/experiment``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from implicit_em.base.errors import ConfigError
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.config.mistakes import explain
from implicit_em.sweeps.jobs import enumerate_jobs

OWN_SETTINGS = ("experiment", "callbacks", "model", "loss")
"""What overrides may not change in any experiment, beside its axes."""


@dataclass
class Run:
    """One training run and the places that it has in the study.

    Args:
        cfg: its composed configuration.
        fingerprint: of that.
        directory: where it is, or will be.
        completed: whether it was there already.
        places: the sweeps that it belongs to, and its values of their axes.

    """

    cfg: DictConfig
    fingerprint: str
    directory: Path
    completed: bool = False
    places: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Sweep and job, as the directories are called."""
        return f"{self.directory.parent.name}/{self.directory.name}"


def compose_sweeps(
    sweeps: Sequence[str], conf: Path, overrides: Sequence[str]
) -> list[tuple[str, DictConfig, dict[str, str]]]:
    """Return each job of the sweeps: its sweep, its configuration and its values of the axes.

    Args:
        sweeps: files of ``conf/experiment``.
        conf: the configuration files.
        overrides: settings, in Hydra's notation, beside those of the experiments.

    Raises:
        ConfigError: if one cannot be composed, or an override is of what a sweep sets itself.

    """
    jobs = []
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for sweep in sweeps:
            typed = [f"experiment={sweep}", *overrides]
            try:
                base = compose("train", overrides=typed, return_hydra_config=True)
                axes = list(base.hydra.sweeper.params or ())
                _refuse_own_settings(axes, overrides)
                for job in enumerate_jobs(base, loader):
                    values = dict(override.split("=", 1) for override in job)
                    chosen = {axis: values[axis] for axis in axes}
                    jobs.append((sweep, _with_values(base, chosen, job), chosen))
            except HydraException as error:
                raise ConfigError(explain(error, typed, loader, "train")) from error
    return jobs


def _with_values(base: DictConfig, values: Mapping[str, str], job: list[str]) -> DictConfig:
    """Return the configuration of a job: composed anew where an axis chooses, or adds a key."""
    if any(a.startswith("+") or OmegaConf.is_config(OmegaConf.select(base, a)) for a in values):
        return compose("train", overrides=job)
    cfg = OmegaConf.masked_copy(base, [str(key) for key in base if key != "hydra"])
    OmegaConf.set_struct(cfg, True)  # as Hydra has it
    for override in OverridesParser.create().parse_overrides(
        [f"{axis}={value}" for axis, value in values.items()]
    ):
        OmegaConf.update(cfg, override.key_or_group, override.value())
    return cfg


def _refuse_own_settings(axes: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuse overrides of what an experiment sets itself, but for the seeds."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.startswith("hydra") or key in {*OWN_SETTINGS, *axes} - {"seed"}:
            raise ConfigError(f"{override}: the experiments set {key} themselves")


def on_any_device(cfg: DictConfig) -> str:
    """Return the fingerprint that a run would have on one thread of a CPU."""
    cfg = cfg.copy()
    OmegaConf.update(cfg, "trainer", {"accelerator": "cpu", "threads": 1}, merge=True)
    return config_fingerprint(cfg)
