"""The runs of a study, and their training: those that are alike together, with one progress bar."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import filterfalse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from implicit_em.base.errors import RunError, one_line
from implicit_em.models import SparseAutoencoder
from implicit_em.sweeps.stacked import groups, progress_of, train_together
from implicit_em.trained.loading import load_trusted
from implicit_em.training.directory import RunDirectory
from implicit_em.training.spec import RunSpec

log = logging.getLogger(__name__)

LOG_FILE = "train.log"
DIVERGED = "the loss was not finite"


class Place(NamedTuple):
    """A sweep, and a run's value of each of its axes in Hydra's notation."""

    sweep: str
    axes: Mapping[str, str]


@dataclass
class Run:
    """One training run of a study.

    Args:
        places: the run's place in each sweep that it belongs to; the first one names it.
        completed: whether the directory held the complete run when the study was planned.
        batch: runs of one batch may train at the same time. Runs whose steps differ much in cost
            need another batch, or workers wait for each other.
    """

    cfg: DictConfig
    fingerprint: str
    directory: Path
    places: list[Place]
    completed: bool = False
    batch: str = ""
    group: str | None = None  # in W&B; ``None`` for the first sweep
    tags: list[str] = field(default_factory=list)

    @cached_property
    def spec(self) -> RunSpec:
        """The run's settings, resolved and validated."""
        return RunSpec.of(self.cfg)

    @property
    def label(self) -> str:
        """Names of the sweep's and the run's directory."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def sweep(self) -> str:
        """The first sweep that the run belongs to."""
        return self.places[0].sweep

    @property
    def axes(self) -> Mapping[str, str]:
        """Its values of that sweep's axes."""
        return self.places[0].axes

    @property
    def sweeps(self) -> list[str]:
        """All sweeps that the run belongs to."""
        return [place.sweep for place in self.places]

    def metrics(self) -> dict[str, Any]:
        """Read ``metrics.json``; empty if there is none yet."""
        return RunDirectory(self.directory).read_metrics() or {}

    def model(self) -> Any:
        """Load the trained model, on the CPU, for the samples that the run's data module gives.

        Its class and its activation's may be a user's own.
        """
        return load_trusted(RunDirectory(self.directory))[0]


def matrices_of(model: Any) -> dict[str, np.ndarray]:
    """Return the rows of the ``encoder`` and the columns of a ``decoder``, each ``(K, D)``."""
    matrices = {"encoder": model.weight}
    if isinstance(model, SparseAutoencoder):
        matrices["decoder"] = model.decoder.weight.mT
    return {name: weight.detach().numpy() for name, weight in matrices.items()}


def directions_of(model: Any) -> np.ndarray:
    """Return the columns of a decoder or, without one, the rows of an encoder, ``(K, D)``."""
    matrices = matrices_of(model)
    return matrices.get("decoder", matrices["encoder"])


def table(runs: Sequence[Run], sweeps: Sequence[str]) -> pd.DataFrame:
    """Return one row per run of the sweeps: its metrics, its values of the axes, and ``directory``.

    An axis is called by the last part of its key: ``lr`` for ``lr.value``.
    """
    rows = []
    for run in runs:
        for place in run.places:
            if place.sweep in sweeps:
                row = {**run.metrics(), "directory": run.directory}
                for key, value in place.axes.items():
                    row[key.removesuffix(".value").rpartition(".")[2]] = _number(value)
                rows.append(row)
    frame = pd.DataFrame(rows)
    nothing = frame.columns[frame.isna().all()]
    return frame.astype(dict.fromkeys(nothing, float))


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


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
    for batch in dict.fromkeys(run.batch for run in runs):
        own = [run for run in runs if run.batch == batch]
        for positions in groups([run.spec for run in own]):
            yield [own[position] for position in positions]


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
