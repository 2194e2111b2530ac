"""The training of the study's runs: all that are alike together, one progress over all of them."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf

from implicit_em.base.errors import RunError, one_line
from implicit_em.config.spec import RunSpec
from implicit_em.studies.runs import Run
from implicit_em.sweeps.stacked import groups, progress_of, train_together

log = logging.getLogger(__name__)

LOG_FILE = "train.log"


def execute(
    runs: Sequence[Run],
    workers: int | None = None,
    tags: Sequence[str] = (),
    family: Callable[[Run], object] = lambda run: None,
    experiments: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Train what is not complete, as stacks, with one progress over all of it.

    Args:
        runs: from ``plan``.
        workers: stacks that train at the same time; by default the number of cores.
        tags: of the W&B runs, beside the names of their experiments.
        family: runs of another one are not trained at the same time; where steps differ much in
            cost, workers would wait for each other.
        experiments: names of groups in W&B, with the sweeps that each is made of.

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
    progress = progress_of([RunSpec.of(run.cfg) for run in waiting])
    for some in _together(waiting, family):
        jobs = [partial(_train, run, _logger_settings(run, tags, experiments)) for run in some]
        errors = train_together([RunSpec.of(run.cfg) for run in some], jobs, progress, workers)
        for run, error in zip(some, errors, strict=True):
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


def _together(runs: Sequence[Run], family: Callable[[Run], object]) -> Iterator[list[Run]]:
    by_family: dict[object, list[Run]] = {}
    for run in runs:
        by_family.setdefault(family(run), []).append(run)
    for own in by_family.values():
        for positions in groups([RunSpec.of(run.cfg) for run in own]):
            yield [own[position] for position in positions]


def _logger_settings(
    run: Run, tags: Sequence[str], experiments: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return the W&B group and tags: the first of the run's experiments, and all of them."""
    sweeps = [sweep for sweep, _ in run.places]
    own = [name for name, parts in experiments.items() if set(parts) & set(sweeps)]
    first = next((name for name, parts in experiments.items() if sweeps[0] in parts), sweeps[0])
    return {"group": first, "tags": [*own, *tags]}


def _train(run: Run, logger: dict[str, Any]) -> str | None:
    """Train one run in a thread of its own, its log in a file; gives what made it fail."""
    from implicit_em.training.run import train

    settings = {key: value for key, value in logger.items() if key in run.cfg.logger}
    OmegaConf.update(run.cfg, "logger", settings, merge=True)
    run.directory.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(run.directory / LOG_FILE)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        train(run.cfg, run.directory)
    except Exception as error:
        return one_line(error)
    return None
