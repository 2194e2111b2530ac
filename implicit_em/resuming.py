"""``resume=DIR``: a run goes on in its own directory and with its own settings."""

from collections.abc import Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from implicit_em.errors import ConfigError, DamagedError
from implicit_em.fingerprint import config_fingerprint
from implicit_em.rundir import RunDirectory, flatten

CONFIG = "train"


def continued(cfg: DictConfig, typed: Sequence[str] = ()) -> DictConfig:
    """Return the configuration of the run that ``cfg.resume`` names, with what was typed beside it.

    Args:
        cfg: the composed configuration.
        typed: Hydra's overrides, which may change what does not affect the results, and ask for
            more epochs where the schedule does not depend on their number.

    Raises:
        ConfigError: if the directory holds no run, or an override makes another experiment of it.

    """
    run = RunDirectory(cfg.resume)
    try:
        saved = run.read_config()
    except (FileNotFoundError, DamagedError) as error:
        raise ConfigError(f"resume={cfg.resume}: {error}") from error
    found = saved
    typed = [override for override in typed if not override.startswith(("resume=", "hydra"))]
    own = run.read_overrides()
    before = _compose(own) if typed else {}
    for override in typed:
        after = _compose([*own, override])
        changed = {k: v for k, v in after.items() if k not in before or before[k] != v}
        found = found.copy()
        for key, value in changed.items():
            OmegaConf.update(found, key, value, force_add=True)
        if not _same_experiment(saved, found):
            raise ConfigError(
                f"{override}: makes another experiment of {cfg.resume}; beside resume= may stand "
                "what does not affect the results, and a larger trainer.max_epochs with lr=constant"
            )
    return found


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration(CONFIG, list(overrides), run_mode=RunMode.RUN)
    names = [str(key) for key in cfg if key not in ("hydra", "resume")]
    return flatten(OmegaConf.to_container(OmegaConf.masked_copy(cfg, names), resolve=True))


def _same_experiment(saved: DictConfig, changed: DictConfig) -> bool:
    if changed.trainer.max_epochs > saved.trainer.max_epochs and saved.lr.schedule is None:
        changed = changed.copy()
        changed.trainer.max_epochs = saved.trainer.max_epochs
    return config_fingerprint(changed) == config_fingerprint(saved)
