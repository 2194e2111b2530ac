"""The Hydra callback that checks a run, or every job of a sweep, before anything trains."""

from pathlib import Path
from typing import Any, ClassVar

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import implicit_em.resolvers  # noqa: F401  (a launcher's worker imports the callback, and needs them)
from implicit_em.errors import ConfigError, RefusedError
from implicit_em.mistakes import explain
from implicit_em.sweeps.jobs import enumerate_jobs


class CheckCallback(Callback):
    """Refuses a wrong configuration before its run directory exists."""

    sweep_directory: ClassVar[Path | None] = None
    """Directory of the sweep that this process started."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the configuration of a single run."""
        _check(config, here=True)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the configuration of each job; one that cannot be trained stops the sweep."""
        loader = GlobalHydra.instance().config_loader()
        for overrides in enumerate_jobs(config, loader):
            try:
                job = loader.load_sweep_config(config, overrides)
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                reason = explain(error, overrides, loader, config.hydra.job.config_name)
                raise RefusedError(reason, error) from error
            launcher = config.hydra.launcher._target_.rpartition(".")[2]
            _check(job, here=launcher in ("BasicLauncher", "StackedLauncher"))
        CheckCallback.sweep_directory = Path(config.hydra.sweep.dir)


def _check(config: DictConfig, here: bool) -> None:
    from implicit_em.config import check  # imports torch, which --help does not need

    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        check(task, config.hydra.runtime.choices, here)
    except ConfigError as error:
        raise RefusedError(str(error), error) from error
