"""``resume=DIR``: a run goes on in its own directory and with its own settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.engine.schedulers import is_scheduler
from implicit_em.training.directory import RunDirectory
from implicit_em.training.spec import RunSpec


def continued(cfg: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the saved configuration of the run that ``cfg.resume`` names, with the overrides.

    The overrides may change settings that do not affect the results. They may also increase the
    number of epochs if neither the learning rate nor a control of L0 depends on it. Others raise
    ``ConfigError``.
    """
    run = RunDirectory(cfg.resume)
    if not run.path.is_dir():
        raise ConfigError(
            f"resume={cfg.resume}: no such directory; a relative path starts at {Path.cwd()}"
        )
    try:
        saved = run.read_config()
    except (FileNotFoundError, DamagedError) as error:
        raise ConfigError(f"resume={cfg.resume}: {error}") from error
    if missing := {"model", "loss", "trainer", "seed"} - saved.keys():
        raise ConfigError(f"resume={cfg.resume}: no run of this project: no {min(missing)} there")
    new = [line for line in overrides if not line.lstrip("+~").startswith(("resume=", "hydra"))]
    if not new:
        return saved
    old = run.read_overrides()
    if any(line.startswith("logger=") for line in new):  # replaces the logger and its settings
        old = [line for line in old if not line.lstrip("+~").startswith("logger")]
    composed = _compose([*old, *new])
    changed, absent = saved.copy(), object()
    for override in OverridesParser.create().parse_overrides(new):
        key = override.key_or_group.replace("/", ".")
        value = OmegaConf.select(composed, key, default=absent)
        if value is not absent:
            OmegaConf.update(changed, key, value, merge=False, force_add=True)
        if value is absent or not _same_experiment(saved, changed):
            raise ConfigError(
                f"{override.input_line}: makes another experiment of {cfg.resume}; allowed beside "
                "resume= are settings that do not affect the results and, with lr=constant or a "
                "scheduler of torch and without a control of model.l0, a larger trainer.max_epochs"
            )
    return changed


def _compose(overrides: list[str]) -> DictConfig:
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration("train", overrides, run_mode=RunMode.RUN)
    names = [str(key) for key in cfg if key not in ("hydra", "resume")]
    settings: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, names), resolve=True)
    return OmegaConf.create(settings)


def _same_experiment(saved: DictConfig, changed: DictConfig) -> bool:
    before, epochs = saved.trainer.max_epochs, changed.trainer.max_epochs
    schedule = saved.lr.schedule
    settings: Any = OmegaConf.to_container(saved, resolve=True)
    controlled = RunSpec.of_settings(settings).l0 is not None
    may_grow = (schedule is None or is_scheduler(schedule)) and not controlled
    if not isinstance(epochs, int) or (epochs > before and may_grow):
        changed = changed.copy()
        changed.trainer.max_epochs = before  # the check refuses a value that is not a number
    return config_fingerprint(changed) == config_fingerprint(saved)
