"""Configurations that Hydra composes outside of its own command line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from implicit_em.base.errors import ConfigError
from implicit_em.config import CONF
from implicit_em.config.mistakes import explain


def composed(name: str, overrides: Sequence[str], conf: Path = CONF) -> DictConfig:
    """Return a primary configuration of a folder with overrides, such as ``train``.

    Raises:
        ConfigError: if it cannot be composed; the message says why.
    """
    with composing(name, overrides, conf):
        return compose(name, overrides=list(overrides))


@contextmanager
def composing(name: str, overrides: Sequence[str], conf: Path) -> Iterator[ConfigLoader]:
    """Let Hydra compose from a folder, and yield its loader; raise as ``composed`` does."""
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            yield loader
        except HydraException as error:
            raise ConfigError(explain(error, overrides, loader, name)) from error
