"""The Hydra callback that checks a harvest, or every part of one, before a model is loaded."""

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from implicit_em.sweeps import launchers
from implicit_em.sweeps.callback import composed_jobs, refusing


class CheckHarvest(Callback):
    """Refuses wrong settings, a store of others, and a model or text that is not there."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a harvest in one process."""
        with refusing(config):
            _check(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every part; a single wrong one stops all."""
        with refusing(config):
            for _, job in composed_jobs(config):
                _check(job)


def _check(config: DictConfig) -> None:
    from implicit_em.language.harvest import build_source
    from implicit_em.language.model_files import find  # loads torch, which --help does not need
    from implicit_em.language.settings import HarvestSettings
    from implicit_em.language.writing import StoreWriter

    settings = HarvestSettings.of(config)
    StoreWriter(settings.store).refuse_other(settings.deciding())
    if launchers.run_here(config):
        find(settings.lm)
        build_source(settings)
