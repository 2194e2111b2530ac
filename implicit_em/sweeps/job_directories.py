"""The directories of a sweep's jobs, and the list of them on disk."""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from implicit_em.base.errors import DamagedError
from implicit_em.base.files import read_json, write_json
from implicit_em.config.composing import key_of
from implicit_em.config.fingerprint import affects_results, config_fingerprint
from implicit_em.config.saved import read_config

log = logging.getLogger(__name__)

JOBS = "jobs.json"
_SAFE_NAME = re.compile(r"[\w=,.+@-][\w=,.+@ \[\]-]{0,149}", re.ASCII)
_FINGERPRINT = re.compile("[0-9a-f]{16}")


class JobDirectories:
    """Names of the directories of a sweep's jobs.

    A job keeps the directory that the list on disk has for it. Any other job gets the directory of
    a run of its fingerprint, if there is one. Otherwise its directory is named after the overrides
    that affect results. If the overrides make no name, fixed overrides that hold a slash are left
    out. If the rest makes no name either, or another run has the name, the fingerprint names the
    directory.

    Args:
        sweep: directory of the sweep.
        fixed: keys that have one value in all jobs.
    """

    def __init__(self, sweep: Path, fixed: Collection[str] = ()) -> None:
        self._sweep, self._fixed = sweep, fixed
        # A fingerprint is not taken from the list: if the job's files have changed, it has another.
        self._names = {
            job: name
            for name, job in noted_jobs(sweep).items()
            if _is_safe(name) and not _FINGERPRINT.fullmatch(name)
        }

    def name_of(self, overrides: Sequence[str], cfg: DictConfig) -> str:
        """Return the name of a job's directory; the first call decides it."""
        job = ",".join(overrides)
        if job not in self._names:
            self._names[job] = self._chosen(overrides, cfg)
        return self._names[job]

    def _chosen(self, overrides: Sequence[str], cfg: DictConfig) -> str:
        lines = sorted(filter(affects_results, overrides))
        name = ",".join(lines)
        if whole := _is_safe(name):
            if (self._sweep / name).exists():  # of this job, or it will be refused
                return name
        else:
            fixed = self._fixed
            name = ",".join(o for o in lines if "/" not in o or key_of(o) not in fixed)
        if self._existing:
            with suppress(Exception):  # if there is no fingerprint, the check says why
                if found := self._existing.get(config_fingerprint(cfg)):
                    return found
        if whole or (_is_safe(name) and not (self._sweep / name).exists()):
            return name
        return config_fingerprint(cfg)

    @cached_property
    def _existing(self) -> dict[str, str]:
        """Names of the directories that held a run before this sweep, by its fingerprint."""
        found: dict[str, str] = {}
        for config in sorted(self._sweep.glob("*/.hydra/config.yaml")):
            with suppress(DamagedError, OSError):
                found.setdefault(_fingerprint_of(config), config.parents[1].name)
        return found


def _is_safe(name: str) -> bool:
    return bool(_SAFE_NAME.fullmatch(name) and name.strip("."))


def _fingerprint_of(config: Path) -> str:
    """Return the fingerprint of a run, from its metrics if they have it: that is much faster."""
    with suppress(DamagedError, OSError):
        match read_json(config.parents[1] / "metrics.json"):
            case {"config_fingerprint": str(fingerprint)}:
                return fingerprint
    return config_fingerprint(read_config(config))


_known: dict[Path, JobDirectories] = {}


def begin_sweep(directory: Path, fixed: Collection[str]) -> None:
    """Forget an earlier sweep of this process in the same directory."""
    _known[directory] = JobDirectories(directory, fixed)


def job_directory(overrides: Sequence[str], *, _root_: DictConfig) -> str:
    """Return the name of a job's directory; see ``JobDirectories``."""
    sweep = Path(str(_root_.hydra.sweep.dir))
    if sweep not in _known:  # in a process that the launcher has started
        begin_sweep(sweep, ())
    return _known[sweep].name_of(overrides, _root_)


OmegaConf.register_new_resolver("job_directory", job_directory, replace=True)


def note_jobs(directory: Path, jobs: Mapping[str, str]) -> None:
    """Put jobs first in a sweep directory's list: their overrides by their paths in it.

    An entry for the same overrides with another directory is left out.
    """
    new = set(jobs.values())
    others = {name: job for name, job in noted_jobs(directory).items() if job not in new}
    write_json(directory / JOBS, {**jobs, **others})


def noted_jobs(directory: Path) -> dict[str, str]:
    """Return the valid entries of a sweep's list of jobs, which may be missing or damaged."""
    try:
        jobs: Any = read_json(directory / JOBS)
        if not isinstance(jobs, dict):
            raise DamagedError(f"{directory / JOBS}: no list of jobs")
    except DamagedError as error:
        log.warning("%s; jobs that never started are not known", error)
        return {}
    except OSError:
        return {}
    return {name: job for name, job in jobs.items() if isinstance(job, str) and _is_a_name(name)}


def _is_a_name(name: str) -> bool:
    """Return whether this is a path below the sweep; ``hydra.sweep.subdir`` may have folders."""
    parts = Path(name).parts
    return bool(parts) and not {"..", "/"} & {*parts} and str(Path(name)) == name
