"""The training of the study's runs: several processes, one progress over all of them."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from implicit_em.errors import RunError, one_line
from implicit_em.experiments.study import EXPERIMENTS, Run

log = logging.getLogger(__name__)

LOG_FILE = "train.log"


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def execute(runs: Sequence[Run], workers: int, tags: Sequence[str] = ()) -> None:
    """Train what is not complete, several at a time, with one progress over all of it.

    Args:
        runs: from ``plan``.
        workers: processes; each run has a single thread.
        tags: of the W&B runs, beside the names of their experiments.

    Raises:
        RunError: at the end, if runs failed; those that did not are kept.

    """
    waiting = sorted((run for run in runs if not run.completed), key=lambda run: -run.cost)
    for run in runs:
        shared = [sweep for sweep, _ in run.places[1:]]
        if run.completed:
            log.info("%s: complete already, reused", run.label)
        if shared:
            log.info("%s: serves %s too, by its fingerprint", run.label, ", ".join(shared))
    if not waiting:
        return
    log.info("%d of %d runs to train, %d at a time", len(waiting), len(runs), workers)
    failed = []
    with _progress(waiting, workers) as done:
        results = Parallel(n_jobs=workers, return_as="generator_unordered")(
            delayed(_train)(number, run.cfg, run.directory, _logger_settings(run, tags))
            for number, run in enumerate(waiting)
        )
        try:
            for number, error in results:
                if error:
                    failed.append(waiting[number])
                    log.error("%s failed: %s", waiting[number].label, error)
                done(waiting[number])
        except TerminatedWorkerError as error:
            raise RunError(
                "a worker process was killed, perhaps for memory; what is complete is kept, and "
                "the same command goes on"
            ) from error
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


def _train(
    number: int, cfg: DictConfig, directory: Path, logger: dict[str, Any]
) -> tuple[int, str | None]:
    """Train one run in a worker process, its output in a file; gives what made it fail."""
    from implicit_em.training import train

    settings = {key: value for key, value in logger.items() if key in cfg.logger}
    OmegaConf.update(cfg, "logger", settings, merge=True)
    OmegaConf.update(cfg, "trainer.enable_progress_bar", False)
    directory.mkdir(parents=True, exist_ok=True)
    # Where a study was killed, a worker may outlive it for the rest of its run.
    with FileLock(directory / ".lock"), _output_to(directory / LOG_FILE):
        try:
            train(cfg, directory)
        except Exception as error:
            return number, one_line(error)
    return number, None


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    root = logging.getLogger()
    with path.open("a") as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            root.removeHandler(handler)


@contextlib.contextmanager
def _progress(waiting: Sequence[Run], workers: int) -> Iterator[Any]:
    """Give a function that notes a run as done: a bar on a terminal, a line each elsewhere."""
    total, started = sum(run.cost for run in waiting), time.monotonic()
    finished: list[Run] = []
    console = Console(file=sys.stdout)
    with Progress(
        TextColumn("study"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=total, state=f"0/{len(waiting)} runs")

        def done(run: Run) -> None:
            finished.append(run)
            share = sum(run.cost for run in finished) / total
            # The other workers are half-way through their runs, on average.
            under_way = waiting[len(finished) :][: workers - 1]
            worked = share + sum(run.cost for run in under_way) / 2 / total
            left = (time.monotonic() - started) * (1 - worked) / worked / 60
            state = f"{len(finished)}/{len(waiting)} runs, {share:.0%}, about {left:.0f} min left"
            bar.update(task, completed=share * total, state=state)
            if not console.is_terminal:
                log.info("%s: over (%s)", run.label, state)

        yield done
