"""The commands of the wing."""

import logging
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from implicit_em.base import errors
from implicit_em.cli.composed import compose_and_run, logged_errors
from implicit_em.config import CONF

log = logging.getLogger(__name__)

HARVEST = "harvest"
"""The command, with a primary configuration of its name."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name=HARVEST)
def _harvest(cfg: DictConfig) -> None:
    from implicit_em.language.harvest import harvest

    with logged_errors():
        try:
            harvest(cfg)
        except errors.RunError as error:
            log.error("error: %s", error)
            raise


def harvest(arguments: Sequence[str]) -> int:
    """Write a store of vectors from inside a language model."""
    return compose_and_run(_harvest, HARVEST, arguments)
