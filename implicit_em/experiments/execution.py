"""The training of the study's runs: all that are alike together, one progress over all of them."""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from threadpoolctl import threadpool_limits

from implicit_em.errors import RunError, one_line
from implicit_em.experiments.study import EXPERIMENTS, Run
from implicit_em.sweeps.stacked import groups, progress_of, rendezvous_for
from implicit_em.terminal import logs_of

log = logging.getLogger(__name__)

LOG_FILE = "train.log"


def execute(runs: Sequence[Run], workers: int | None = None, tags: Sequence[str] = ()) -> None:
    """Train what is not complete, as stacks, with one progress over all of it.

    Args:
        runs: from ``plan``.
        workers: stacks that train at the same time; by default the number of cores.
        tags: of the W&B runs, beside the names of their experiments.

    Raises:
        RunError: at the end, if runs failed; those that did not are kept.

    """
    waiting = [run for run in runs if not run.completed]
    for run in runs:
        shared = [sweep for sweep, _ in run.places[1:]]
        if run.completed:
            log.info("%s: complete already, reused", run.label)
        if shared:
            log.info("%s: serves %s too, by its fingerprint", run.label, ", ".join(shared))
    if not waiting:
        return
    log.info("%d of %d runs to train", len(waiting), len(runs))
    failed = []
    progress = progress_of([run.cfg for run in waiting])
    for positions in groups([run.cfg for run in waiting]):
        some = [waiting[position] for position in positions]
        meeting = rendezvous_for([run.cfg for run in some], progress, workers)
        with _quiet_threads(), contextlib.closing(meeting):
            under_way = [
                meeting.start(partial(_train, run.cfg, run.directory, _logger_settings(run, tags)))
                for run in some
            ]
            with threadpool_limits(1):
                meeting.conduct()
        for run, (future, _) in zip(some, under_way, strict=True):
            if error := future.result():
                failed.append(run)
                log.error("%s failed: %s", run.label, error)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(runs)} runs failed, the first: {failed[0].label}; the others "
            "are kept, and the same command tries these again"
        )


def _logger_settings(run: Run, tags: Sequence[str]) -> dict[str, Any]:
    """Return the W&B group and tags: the first of the run's experiments, and all of them."""
    sweeps = [sweep for sweep, _ in run.places]
    experiments = [name for name, parts in EXPERIMENTS.items() if set(parts) & set(sweeps)]
    first = next(name for name, parts in EXPERIMENTS.items() if sweeps[0] in parts)
    return {"group": first, "tags": [*experiments, *tags]}


def _train(cfg: DictConfig, directory: Path, logger: dict[str, Any]) -> str | None:
    """Train one run in a thread of its own, its log in a file; gives what made it fail."""
    from implicit_em.training import train

    settings = {key: value for key, value in logger.items() if key in cfg.logger}
    OmegaConf.update(cfg, "logger", settings, merge=True)
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock"), _log_to(directory / LOG_FILE):
        try:
            train(cfg, directory)
        except Exception as error:
            return one_line(error)
    return None


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Show what this thread logs, but not what each run's thread logs."""
    handlers, shown = list(logging.root.handlers), logs_of(threading.current_thread())
    for handler in handlers:
        handler.addFilter(shown)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(shown)


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Write what this thread logs to a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(logs_of(threading.current_thread()))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
