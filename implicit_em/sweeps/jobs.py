"""The jobs of a sweep, as Hydra's own sweeper enumerates them, and the list of them on disk."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from implicit_em.base.errors import DamagedError
from implicit_em.base.files import read_json, write_json

log = logging.getLogger(__name__)

JOBS = "jobs.json"


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


def note_jobs(directory: Path, jobs: Mapping[str, str]) -> None:
    """Add jobs to the list in a sweep's directory, so that none is forgotten that never started.

    Args:
        directory: of the sweep.
        jobs: the overrides of each, by the name of its directory.

    """
    write_json(directory / JOBS, {**noted_jobs(directory), **jobs})


def noted_jobs(directory: Path) -> dict[str, str]:
    """Return the jobs in a sweep's list; nothing where there is none that could be read.

    What is no name of a directory in the sweep's own is left out.
    """
    try:
        jobs = read_json(directory / JOBS)
        if not isinstance(jobs, dict):
            raise DamagedError(f"{directory / JOBS}: no list of jobs")
    except DamagedError as error:
        log.warning("%s; jobs that never started are not known", error)
        return {}
    except OSError:
        return {}
    return {name: job for name, job in jobs.items() if isinstance(job, str) and _is_a_name(name)}


def _is_a_name(name: str) -> bool:
    return name not in ("", "..") and Path(name).name == name
