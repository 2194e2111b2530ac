"""The training of a study's runs: those that are alike together, with one progress bar for all."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import filterfalse

from omegaconf import OmegaConf

from implicit_em.base.errors import RunError, one_line
from implicit_em.sweeps.stacked import groups, progress_of, train_together
from implicit_em.training.directory import RunDirectory
from implicit_em_studies.shared.runs import Run

log = logging.getLogger(__name__)

LOG_FILE = "train.log"
DIVERGED = "the loss was not finite"


def execute(runs: Sequence[Run], workers: int | None = None, tags: Sequence[str] = ()) -> None:
    """Train the runs that are not complete, as stacks; ``tags`` are added to each run's own in W&B.

    Raises:
        RunError: at the end, if runs failed; the others are kept.
    """
    waiting = [run for run in runs if not run.completed]
    for run in runs:
        if run.completed:
            log.info("%s: complete already, reused", run.label)
        if len(run.places) > 1:
            others = ", ".join(run.sweeps[1:])
            log.info("%s: serves %s too, by its fingerprint", run.label, others)
    if not waiting:
        return
    log.info("%d of %d runs to train", len(waiting), len(runs))
    failed = []
    progress = progress_of([run.spec for run in waiting])
    for together in _stacks(waiting):
        jobs = [partial(_train, run, tags) for run in together]
        errors = train_together([run.spec for run in together], jobs, progress, workers)
        for run, error in zip(together, errors, strict=True):
            if error:
                failed.append(run)
                log.error("%s failed: %s", run.label, error)
    if progress is not None:
        progress.close()
    if failed:
        raise RunError(
            f"{len(failed)} of {len(runs)} runs failed, the first: {failed[0].label}; the others "
            "are kept, and the same command tries these again"
        )


def execute_all(runs: Sequence[Run], workers: int | None = None, tags: Sequence[str] = ()) -> None:
    """Train as ``execute`` does, but a run that diverges is a result.

    Raises:
        RunError: at the end, if runs failed in another way.
    """
    waiting = list(filterfalse(has_diverged, runs))
    try:
        execute(waiting, workers, tags)
    except RunError:
        for run in filterfalse(has_diverged, waiting):
            if RunDirectory(run.directory).completed_metrics() is None:
                raise


def has_diverged(run: Run) -> bool:
    """Return whether a run's loss became infinite or NaN: that is a result, not tried again."""
    metrics = run.metrics()
    return (
        metrics.get("config_fingerprint") == run.fingerprint
        and metrics["status"] == "failed"
        and str(metrics.get("error")).startswith(DIVERGED)
    )


def _stacks(runs: Sequence[Run]) -> Iterator[list[Run]]:
    batches: dict[str, list[Run]] = {}
    for run in runs:
        batches.setdefault(run.batch, []).append(run)
    for batch in batches.values():
        for positions in groups([run.spec for run in batch]):
            yield [batch[position] for position in positions]


def _train(run: Run, tags: Sequence[str]) -> str | None:
    """Train one run in its own thread, logging to a file; return the error if it fails."""
    from implicit_em.training.run import train

    logger = {"group": run.group or run.sweep, "tags": [*run.tags, *tags]}
    known = {key: value for key, value in logger.items() if key in run.cfg.logger}
    OmegaConf.update(run.cfg, "logger", known, merge=True)
    run.directory.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(run.directory / LOG_FILE)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        train(run.cfg, run.directory)
    except Exception as error:
        return one_line(error)
    return None
