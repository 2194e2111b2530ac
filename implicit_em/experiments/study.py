"""The runs of the study: composed from the sweep axes in ``conf/experiment``, each trained once."""

import contextlib
import hashlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from implicit_em.config import check
from implicit_em.errors import ConfigError, RunError, one_line
from implicit_em.experiments.paper import PROTOCOL
from implicit_em.fingerprint import config_fingerprint
from implicit_em.mistakes import explain
from implicit_em.rundir import RunDirectory
from implicit_em.sweeps.jobs import enumerate_jobs

log = logging.getLogger(__name__)

EXPERIMENTS = {
    "theorem": ("theorem",),
    "ablation": ("ablation",),
    "benchmark": ("benchmark",),
    "dynamics": ("dynamics", "width_sgd", "width_adam"),
    "features": ("features",),
}
"""The five experiments and the sweeps, files of ``conf/experiment``, that each is made of."""
OWN_SETTINGS = ("experiment", "callbacks", "model", "loss")
"""What overrides may not change in any experiment, beside its axes."""
LOG_FILE = "train.log"


@dataclass
class Run:
    """One training run and the places that it has in the study.

    Args:
        cfg: its composed configuration.
        fingerprint: of that.
        directory: where it is, or will be.
        completed: whether it was there already.
        places: the sweeps that it belongs to, and its values of their axes.

    """

    cfg: DictConfig
    fingerprint: str
    directory: Path
    completed: bool = False
    places: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Sweep and job, as the directories are called."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def cost(self) -> float:
        """Roughly how long it takes, in a unit of its own: an epoch's cost grows with K."""
        return self.cfg.trainer.max_epochs * (64 + self.cfg.model.hidden)


def plan(
    experiments: Sequence[str], directory: Path, conf: Path, overrides: Sequence[str] = ()
) -> list[Run]:
    """Compose and check every run of the experiments; one that several share appears once.

    A complete run of the same fingerprint, anywhere below ``directory``, is taken as it is.

    Args:
        experiments: keys of ``EXPERIMENTS``.
        directory: of the runs.
        conf: the configuration files.
        overrides: settings, in Hydra's notation, beside those of the experiments.

    Raises:
        ConfigError: if one of them cannot be trained, or its directory holds another run.

    """
    runs: dict[str, Run] = {}
    complete = _complete(directory)
    sweeps = _sweeps(experiments)
    for sweep, cfg, axes in _compose(sweeps, conf, overrides):
        fingerprint = config_fingerprint(cfg)
        if fingerprint not in runs:
            check(cfg)
            job = ",".join(f"{key}={value}" for key, value in sorted(axes.items()))
            there = complete.get(fingerprint)
            runs[fingerprint] = Run(cfg, fingerprint, there or directory / sweep / job, bool(there))
        runs[fingerprint].places.append((sweep, axes))
    for run in runs.values():
        _refuse_another_run(run)
    return list(runs.values())


def _sweeps(experiments: Sequence[str]) -> list[str]:
    return [sweep for name in experiments for sweep in EXPERIMENTS[name]]


def _complete(directory: Path) -> dict[str, Path]:
    """Return the complete runs below a directory, by the fingerprint in their metrics."""
    found = {}
    for path in sorted(directory.glob("*/*/metrics.json")):
        if metrics := RunDirectory(path.parent).completed_metrics():
            found[metrics["config_fingerprint"]] = path.parent
    return found


def _refuse_another_run(run: Run) -> None:
    directory = RunDirectory(run.directory)
    if directory.config.exists() and config_fingerprint(directory.read_config()) != run.fingerprint:
        raise ConfigError(
            f"{run.directory}: holds a run of other settings; nothing is overwritten: name another "
            "--directory"
        )


def _refuse_own_settings(axes: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuse overrides of what an experiment sets itself, but for the seeds."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.startswith("hydra") or key in {*OWN_SETTINGS, *axes} - {"seed"}:
            raise ConfigError(f"{override}: the experiments set {key} themselves")


def _compose(
    sweeps: Sequence[str], conf: Path, overrides: Sequence[str]
) -> list[tuple[str, DictConfig, dict[str, str]]]:
    """Return each job of the sweeps: its sweep, its configuration and its values of the axes."""
    jobs = []
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for sweep in sweeps:
            typed = [f"experiment={sweep}", *overrides]
            try:
                base = compose("train", overrides=typed, return_hydra_config=True)
                axes = list(base.hydra.sweeper.params or ())
                _refuse_own_settings(axes, overrides)
                for job in enumerate_jobs(base, loader):
                    values = dict(override.split("=", 1) for override in job)
                    cfg = compose("train", overrides=job)
                    jobs.append((sweep, cfg, {axis: values[axis] for axis in axes}))
            except HydraException as error:
                raise ConfigError(explain(error, typed, loader, "train")) from error
    return jobs


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
        if run not in waiting:
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


def table(runs: Sequence[Run], sweeps: Sequence[str]) -> pd.DataFrame:
    """Return one row a run of the sweeps: the values of their axes, and the run's metrics.

    Axes are called by the last part of their key, as ``lr`` for ``lr.value`` and ``hidden`` for
    ``model.hidden``; ``directory`` is the run's.
    """
    rows = []
    for run in runs:
        for sweep, axes in run.places:
            if sweep in sweeps:
                metrics = RunDirectory(run.directory).read_metrics() or {}
                rows.append({**metrics, **_axis_values(axes), "directory": run.directory})
    frame = pd.DataFrame(rows)
    nothing = frame.columns[frame.isna().all()]
    return frame.astype(dict.fromkeys(nothing, float))


def _axis_values(axes: dict[str, str]) -> dict[str, Any]:
    names = {key: key.removesuffix(".value").rpartition(".")[2] for key in axes}
    return {names[key]: _number(value) for key, value in axes.items()}


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def protocol(experiments: Sequence[str], runs: Sequence[Run]) -> dict[str, str]:
    """Return a digest of each sweep's runs, whatever the device and its threads."""
    digests = {}
    for sweep in _sweeps(experiments):
        own = sorted(_on_any_device(r.cfg) for r in runs if sweep in {name for name, _ in r.places})
        digests[sweep] = hashlib.sha256(",".join(own).encode()).hexdigest()[:16]
    return digests


def is_protocol(experiments: Sequence[str], runs: Sequence[Run]) -> bool:
    """Return whether the runs are those of the paper's protocol, as ``paper.PROTOCOL`` pins it."""
    return protocol(experiments, runs).items() <= PROTOCOL.items()


def _on_any_device(cfg: DictConfig) -> str:
    cfg = cfg.copy()
    OmegaConf.update(cfg, "trainer", {"accelerator": "cpu", "threads": 1}, merge=True)
    return config_fingerprint(cfg)
