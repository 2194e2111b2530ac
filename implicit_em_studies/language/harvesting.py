"""The stores of a study, harvested where they are not complete."""

import logging
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from implicit_em.base.errors import ConfigError
from implicit_em.config.harvest import HarvestSettings, LanguageModelSettings
from implicit_em.config.mistakes import explain
from implicit_em.harvest.run import harvest

log = logging.getLogger(__name__)


def harvested(overrides: Sequence[str], store: Path, conf: Path) -> LanguageModelSettings:
    """Make a store by a harvest with these overrides, and return where its model is.

    A store that is complete stays as it is.

    Raises:
        ConfigError: if a setting, the model or the text is refused.
    """
    cfg = composed(overrides, store, conf)
    harvest(cfg)
    return HarvestSettings.of(cfg).lm


def composed(overrides: Sequence[str], store: Path, conf: Path) -> DictConfig:
    """Return the configuration of a harvest with these overrides; ``ConfigError`` if refused."""
    typed = [*overrides, f"store={store}"]
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            return compose("harvest", overrides=typed)
        except HydraException as error:
            raise ConfigError(explain(error, typed, loader, "harvest")) from error
