"""``resume=DIR``: a run goes on in its own directory and with its own settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.training.directory import RunDirectory

CONFIG = "train"
ABSENT = object()


def continued(cfg: DictConfig, typed: Sequence[str] = ()) -> DictConfig:
    """Return the configuration of the run that ``cfg.resume`` names, with what was typed beside it.

    Args:
        cfg: the composed configuration.
        typed: Hydra's overrides, which may change what does not affect the results, and ask for
            more epochs where the schedule does not depend on their number. Of a group, as
            ``logger=csv``, all of it is taken.

    Raises:
        ConfigError: if the directory holds no run, or an override makes another experiment of it.

    """
    run = RunDirectory(cfg.resume)
    try:
        saved = run.read_config()
    except (FileNotFoundError, DamagedError) as error:
        raise ConfigError(f"resume={cfg.resume}: {error}") from error
    if missing := {"model", "loss", "trainer", "seed"} - saved.keys():
        raise ConfigError(f"resume={cfg.resume}: no run of this project: no {min(missing)} there")
    found = saved.copy()
    typed = [line for line in typed if not line.lstrip("+~").startswith(("resume=", "hydra"))]
    own = run.read_overrides()
    if any(line.startswith("logger=") for line in typed):  # another, with settings of its own
        own = [line for line in own if not line.startswith("logger")]
    today = _compose([*own, *typed]) if typed else {}
    for override in OverridesParser.create().parse_overrides(typed):
        key = override.key_or_group.replace("/", ".")
        value = _at(today, key)
        if value is not ABSENT:
            OmegaConf.update(found, key, value, merge=False, force_add=True)
        if value is ABSENT or not _same_experiment(saved, found):
            raise ConfigError(
                f"{override.input_line}: makes another experiment of {cfg.resume}; beside resume= "
                "may stand what does not affect the results, and a larger trainer.max_epochs with "
                "lr=constant"
            )
    return found


def _compose(overrides: Sequence[str]) -> Any:
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration(CONFIG, list(overrides), run_mode=RunMode.RUN)
    names = [str(key) for key in cfg if key not in ("hydra", "resume")]
    return OmegaConf.to_container(OmegaConf.masked_copy(cfg, names), resolve=True)


def _at(settings: Any, key: str) -> Any:
    """Return what stands at a dotted key, or ``ABSENT``."""
    for part in key.split("."):
        if not isinstance(settings, Mapping) or part not in settings:
            return ABSENT
        settings = settings[part]
    return settings


def _same_experiment(saved: DictConfig, changed: DictConfig) -> bool:
    before, epochs = saved.trainer.max_epochs, changed.trainer.max_epochs
    if not isinstance(epochs, int) or (epochs > before and saved.lr.schedule is None):
        changed = changed.copy()
        changed.trainer.max_epochs = before  # what is no number the check refuses
    return config_fingerprint(changed) == config_fingerprint(saved)
