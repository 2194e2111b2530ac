"""The stores of a study, harvested where they are not complete."""

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from implicit_em.config import composing
from implicit_em.config.harvest import HarvestSettings, LanguageModelSettings
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
    return composing.composed("harvest", [*overrides, f"store={store}"], conf)
