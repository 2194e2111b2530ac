"""The jobs of a sweep, as Hydra's own sweeper enumerates them."""

from collections.abc import Iterator

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig


def enumerate_jobs(config: DictConfig, loader: ConfigLoader) -> Iterator[list[str]]:
    """Give the overrides of each job: the experiment's sweep axes and what was typed.

    Nothing where another sweeper chooses them as it goes.

    Args:
        config: the composed configuration, with Hydra's own node.
        loader: of the configuration files.

    """
    sweeper = config.hydra.sweeper
    if not sweeper._target_.endswith(".BasicSweeper"):
        return
    typed = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    typed += config.hydra.overrides.task
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(typed)
    for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None):
        yield from batch
